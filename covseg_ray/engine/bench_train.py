"""A job's training, and what feeds it, over bare steps of the same learner on films in memory."""

from __future__ import annotations

import itertools
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial

import ray
import torch

from covseg_ray.config import Job
from covseg_ray.engine import stream
from covseg_ray.engine.apart import apart
from covseg_ray.engine.bench import Say, cores, in_turn, machine
from covseg_ray.engine.initial import initial_network
from covseg_ray.engine.learner import build_learner, make_fast
from covseg_ray.engine.order import Portion, shuffled_share
from covseg_ray.engine.runtime import KEEP_MEMORY, session
from covseg_ray.engine.source import Source, targets
from covseg_ray.engine.task import Task, open_messages
from covseg_ray.engine.tracking import read_history
from covseg_ray.engine.train import check_sizes, find_films, fit, ready
from covseg_ray.reports.bench import Bench, Rate
from covseg_ray.segmentation.predictor import device_here
from covseg_ray.storage.filesystem import join

BARE, FEED, WHOLE = "bare steps in memory", "films from storage, no training", "train, through Ray"
SCHEDULED_STEPS = 100_000  # a rate's schedule must last longer than any bench


class _Silent:
    """A run's progress, told to nobody."""

    def update(self, step: int, steps: int, epoch: int, epochs: int, images_per_second: float, loss: float) -> None:
        return

    def epoch_done(self, record: Mapping[str, float], best: float) -> None:
        return


class Bare:
    """The job's learner in this process, with all its cores, and one global batch of its films."""

    def __init__(self, job: Job, source: Source) -> None:
        where, state = torch.device(device_here()), initial_network(job).state_dict()
        make_fast(where, cores())
        self.learner = build_learner(job, SCHEDULED_STEPS, state, where, wrap=lambda network: network)
        self.learner.network.train()
        films = list(_films(source, job.train.batch_size))
        self.images_NHW, self.targets_NHW = (torch.stack(each).to(where) for each in zip(*films, strict=True))
        self.rate(1)  # buffers are made, kernels chosen

    def rate(self, steps: int) -> float:
        """Films a second over so many steps."""
        begin = time.perf_counter()
        for _ in range(steps):
            _, loss = self.learner.step(self.images_NHW, self.targets_NHW)
        float(loss)
        return steps * len(self.images_NHW) / (time.perf_counter() - begin)


def bench_train(job: Job, steps: int, rounds: int, say: Say) -> Bench:
    """Bare steps before and after a run of ``rounds`` short epochs; its first epoch, which starts things, counts only
    for the wait."""
    with tempfile.TemporaryDirectory(prefix="covseg-ray-bench-") as folder:
        job = shortened(job, folder, rounds)
        state = initial_network(job).state_dict()
        sources = {split: find_films(job, split) for split in ("train", "val")}
        check_sizes(job, sources)
        sources["train"] = first_units(sources["train"], steps * job.train.batch_size)
        sources["val"] = first_units(sources["val"], 1)
        with apart(Bare, job, sources["train"], variables=KEEP_MEMORY) as bare:
            half = (rounds + 1) // 2
            before = in_turn(half, {BARE: partial(bare, "rate", steps)}, say)[BARE]
            with session(None, job.most_workers):
                films = ready(job, sources)
                fed = feed_rates(job, films["train"], rounds, say)
                fit(Task(job, films["train"], films["val"], ray.put(state), open_messages()), _Silent())
            after = in_turn(half, {BARE: partial(bare, "rate", steps)}, say)[BARE]
        history = read_history(join(job.out, job.name))
    whole = Rate(
        WHOLE,
        tuple(record["images_per_second"] for record in history[1:]),
        f"{job.fewest_workers} workers; first batch after {history[0]['first_batch_seconds']:.1f} s, "
        f"then {max(record['first_batch_seconds'] for record in history[1:]):.2f} s",
    )
    against = Rate(BARE, before + after, f"one process, {cores()} cores, batch {job.train.batch_size}")
    feed = Rate(FEED, fed, "every film once an epoch, shuffled")
    return Bench("train", "films/s", machine(), against, (feed, whole), advice(feed, whole, against))


def shortened(job: Job, folder: str, rounds: int) -> Job:
    train = job.train.model_copy(update={"epochs": rounds + 1, "select": "iou_all"})
    tracking = job.tracking.model_copy(update={"tensorboard": False, "mlflow": ""})
    changes = {"name": "bench", "out": folder, "train": train, "tracking": tracking, "search": ()}
    return job.model_copy(update=changes)


def first_units(source: Source, films: int) -> Source:
    """As many whole units as hold at least so many films."""
    count = 0
    for number, unit in enumerate(source.units, start=1):
        count += len(unit.rows)
        if count >= films:
            return replace(source, units=source.units[:number])
    return source


def _films(source: Source, count: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    for unit in range(len(source.units)):
        films = source.films(unit)
        targets_NHW = targets(films.masks_NHW, films.lungs_NHW, source.classes)
        pairs = zip(torch.from_numpy(films.images_NHW), torch.from_numpy(targets_NHW), strict=True)
        yield from itertools.islice(pairs, count)
        count -= min(count, len(films.image_ids))


def feed_rates(job: Job, source: Source, rounds: int, say: Say) -> tuple[float, ...]:
    """Epochs of batches that nobody trains on; the first one, which starts Ray Data, is left out."""
    sizes, batch = [len(unit.rows) for unit in source.units], job.train.batch_size
    portions: list[Portion] = []
    for epoch in range(1, rounds + 2):
        portions += shuffled_share(sizes, job.seed, epoch, 0, 1, batch)
    rates: list[float] = []
    coming = stream.batches(source, portions, batch, torch.device(device_here()), job.seed)
    for epoch, films in itertools.groupby(coming, key=lambda each: each.epoch):
        begin = time.perf_counter()
        count = sum(len(each.rows_N) for each in films)
        if epoch > 1:
            rates.append(count / (time.perf_counter() - begin))
            say(f"{FEED}: {rates[-1]:,.1f} a second")
    return tuple(rates)


def advice(feed: Rate, whole: Rate, against: Rate) -> tuple[str, ...]:
    machines = feed.median / against.median
    if machines > 1.5:
        more = f"the model limits: more cores, a GPU or more workers; this feed would keep {machines:,.0f} such busy"
    else:
        more = "the feed limits: more CPUs beside the workers, or data.cache = memory"
    return (f"the whole reaches {whole.median / against.median:.0%} of {against.name}", more)

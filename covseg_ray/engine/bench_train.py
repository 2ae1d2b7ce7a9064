"""A job's training, and what feeds it, over bare steps of the same learner on films in memory."""

from __future__ import annotations

import itertools
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import ray
import torch

from covseg_ray.config import Job
from covseg_ray.engine import stream
from covseg_ray.engine.bench import Say, cores, device, machine
from covseg_ray.engine.initial import initial_network
from covseg_ray.engine.learner import Learner, build_learner
from covseg_ray.engine.order import Portion, shuffled_share
from covseg_ray.engine.runtime import session
from covseg_ray.engine.source import Source, targets
from covseg_ray.engine.task import Task, open_messages
from covseg_ray.engine.tracking import read_history
from covseg_ray.engine.train import check_sizes, find_films, fit, ready
from covseg_ray.reports.bench import Bench, Rate
from covseg_ray.storage.filesystem import join

BARE, FEED, WHOLE = "bare steps in memory", "films from storage, no training", "train, through Ray"


class _Silent:
    """A run's progress, told to nobody."""

    def update(self, step: int, steps: int, epoch: int, epochs: int, images_per_second: float, loss: float) -> None:
        return

    def epoch_done(self, record: Mapping[str, float], best: float) -> None:
        return


@dataclass
class Bare:
    """The job's learner in this process, and one global batch of its films."""

    learner: Learner
    images_NHW: torch.Tensor
    targets_NHW: torch.Tensor

    def per_second(self, steps: int) -> float:
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
        network = initial_network(job)
        sources = {split: find_films(job, split) for split in ("train", "val")}
        check_sizes(job, sources)
        sources["train"] = first_units(sources["train"], steps * job.train.batch_size)
        sources["val"] = first_units(sources["val"], 1)
        state = network.state_dict()
        before = bare_rates(job, state, sources["train"], steps, (rounds + 1) // 2, say)
        with session(None, job.most_workers):
            films = ready(job, sources)
            fed = feed_rates(job, films["train"], rounds, say)
            task = Task(job, films["train"], films["val"], ray.put(state), open_messages())
            fit(task, _Silent())
        after = bare_rates(job, state, sources["train"], steps, (rounds + 1) // 2, say)
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


def bare_rates(
    job: Job, state: dict[str, torch.Tensor], source: Source, steps: int, rounds: int, say: Say
) -> tuple[float, ...]:
    bare = _bare(job, state, source)
    bare.per_second(1)  # buffers are made, kernels chosen
    rates = []
    for _ in range(rounds):
        rates.append(bare.per_second(steps))
        say(f"{BARE}: {rates[-1]:,.1f} a second")
    return tuple(rates)


def _bare(job: Job, state: dict[str, torch.Tensor], source: Source) -> Bare:
    where = torch.device(device())
    learner = build_learner(job, 10_000, state, where, wrap=lambda network: network)
    learner.network.train()
    films = list(_films(source, job.train.batch_size))
    images_NHW, targets_NHW = (torch.stack(each).to(where) for each in zip(*films, strict=True))
    return Bare(learner, images_NHW, targets_NHW)


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
    coming = stream.batches(source, portions, batch, torch.device(device()), job.seed)
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

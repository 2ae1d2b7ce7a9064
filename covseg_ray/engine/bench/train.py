"""A job's training, and what feeds it, over bare steps of the same learner on films in memory."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import ray
import torch

from covseg_ray.config.train import Job
from covseg_ray.engine.bench.processes import Calls, actors, session_machine
from covseg_ray.engine.bench.rounds import Bench, Rate, Say, in_turn, output_folder
from covseg_ray.engine.session import NO_PROGRESS, cores, session
from covseg_ray.engine.training import loader
from covseg_ray.engine.training.films import cached, check_sizes, find_films
from covseg_ray.engine.training.initial import initial_network
from covseg_ray.engine.training.learner import build_learner, configure_torch
from covseg_ray.engine.training.run import fit, scaling
from covseg_ray.engine.training.sampling import Portion, shuffled_share
from covseg_ray.engine.training.split import Source
from covseg_ray.engine.training.tracking import read_history
from covseg_ray.engine.training.worker import Rank, Task
from covseg_ray.segmentation.training.targets import targets
from covseg_ray.storage.filesystem import join

BARE, FEED, WHOLE = "bare steps in memory", "films from storage, no training", "train, through Ray"
SCHEDULED_STEPS = 100_000  # a rate's schedule must last longer than any bench


class BareWorker:
    """A worker without Ray Train: the job's learner on its share of one batch, or its share of the films alone."""

    def __init__(self, task: Task, rank: int, device: str) -> None:
        self.task, self.job, self.device = task, task.job, torch.device(device)
        self.rank = Rank(rank, task.job.fewest_workers)
        self.share = self.rank.share(task.job.train.batch_size)

    def node(self) -> str:
        return ray.get_runtime_context().get_node_id()

    def warm(self, neighbours: int) -> None:
        """Make the learner, for as many workers on this node, and its first step: buffers are made, kernels chosen."""
        configure_torch(self.device, cores() // neighbours)
        state = ray.get(self.task.initial)
        self.learner = build_learner(self.job, SCHEDULED_STEPS, state, self.device, wrap=lambda network: network)
        self.learner.network.train()
        films = itertools.islice(_films(self.task.train), self.share)
        self.images_NHW, self.targets_NHW = (torch.stack(each).to(self.device) for each in zip(*films, strict=True))
        self.rate(1)

    def rate(self, steps: int) -> float:
        """Films a second over so many steps."""
        begin = time.perf_counter()
        for _ in range(steps):
            _, loss = self.learner.step(self.images_NHW, self.targets_NHW)
        float(loss)
        return steps * len(self.images_NHW) / (time.perf_counter() - begin)

    def feed(self, rounds: int) -> list[float]:
        """Films a second of batches that nobody trains on, by epoch; the first, which starts Ray Data, is left out."""
        sizes, seed = [len(unit.rows) for unit in self.task.train.units], self.job.seed
        portions, rates = list[Portion](), list[float]()
        for epoch in range(1, rounds + 2):
            portions += shuffled_share(sizes, seed, epoch, self.rank.index, self.rank.world, self.job.train.batch_size)
        coming = loader.batches(self.task.train, portions, self.share, self.device, seed, self.rank.world)
        for epoch, films in itertools.groupby(coming, key=lambda each: each.epoch):
            begin = time.perf_counter()
            count = sum(len(each.rows_N) for each in films)
            if epoch > 1:
                rates.append(count / (time.perf_counter() - begin))
        return rates


def bench_train(
    job: Job, steps: int, rounds: int, say: Say, address: str | None = None, allow_open: bool = False
) -> Bench:
    """Bare steps before and after a run of ``rounds`` short epochs, by as many workers as it has, in the places that it
    asks for; the run's first epoch, which starts things, counts only for the wait. On a cluster it stays in a folder of
    its own below the job's ``out``, which every node reaches."""
    with output_folder(job.out if address else None) as folder:
        job = shortened(job, folder, rounds)
        state = initial_network(job).state_dict()
        sources = {split: find_films(job, split) for split in ("train", "val")}
        check_sizes(job, sources)
        sources["train"] = first_units(sources["train"], steps * job.train.batch_size)
        sources["val"] = first_units(sources["val"], 1)
        half = (rounds + 1) // 2
        with session(address, job.most_workers, allow_open):
            where, films = session_machine(address), cached(job, sources)
            task = Task(job, films["train"], films["val"], ray.put(state))
            with bare_workers(task) as workers:
                before = bare(workers, steps, half, say)
                fed = tuple(sum(each) for each in zip(*workers("feed", rounds), strict=True))
            fit(task, NO_PROGRESS)
            with bare_workers(task) as workers:
                after = bare(workers, steps, half, say)
        history = read_history(join(job.out, job.name))
    wait = max(record["first_batch_seconds"] for record in history[1:])
    note = f"first batch after {history[0]['first_batch_seconds']:.1f} s, then {wait:.2f} s"
    worker_count = f"{job.fewest_workers} workers" if job.fewest_workers > 1 else "one worker"
    whole = Rate(WHOLE, tuple(record["images_per_second"] for record in history[1:]), f"{worker_count}; {note}")
    against = Rate(
        BARE, before + after, f"{worker_count} without Ray Train, together a batch of {job.train.batch_size}"
    )
    feed = Rate(FEED, fed, "every film once an epoch, shuffled")
    return Bench("train", "films/s", where, against, (feed, whole), advice(feed, whole, against))


@contextmanager
def bare_workers(task: Task) -> Iterator[Calls]:
    """The run's workers, as many and each with what it asks of the cluster, but for its memory."""
    wanted, count = scaling(task.job), task.job.fewest_workers
    asked: dict[str, Any] = {"num_cpus": task.job.resources.cpus_per_worker, "num_gpus": int(bool(wanted.use_gpu))}
    if wanted.label_selector:
        asked["label_selector"] = wanted.label_selector
    device = "cuda" if wanted.use_gpu else "cpu"
    with actors(BareWorker, [asked] * count, [(task, rank, device) for rank in range(count)]) as workers:
        nodes = workers("node")
        workers("warm", max(nodes.count(node) for node in nodes))
        yield workers


def bare(workers: Calls, steps: int, rounds: int, say: Say) -> tuple[float, ...]:
    """Films a second of so many steps, all workers at once."""
    return in_turn(rounds, {BARE: lambda: sum(workers("rate", steps))}, say)[BARE]


def shortened(job: Job, folder: str, rounds: int) -> Job:
    """The job with short epochs, without its teachers, in another folder."""
    train = job.train.model_copy(update={"epochs": rounds + 1, "select": "iou_all"})
    tracking = job.tracking.model_copy(update={"tensorboard": False, "mlflow": ""})
    model = job.model.model_copy(update={"teachers": ()})
    changes = {"name": f"bench-{os.getpid()}", "out": folder, "train": train, "tracking": tracking, "search": ()}
    return job.model_copy(update=changes | {"workers": job.fewest_workers, "model": model})


def first_units(source: Source, films: int) -> Source:
    """As many whole units as hold at least so many films."""
    count = 0
    for number, unit in enumerate(source.units, start=1):
        count += len(unit.rows)
        if count >= films:
            return replace(source, units=source.units[:number], shares=None)
    return source


def _films(source: Source) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    for unit in range(len(source.units)):
        films = source.films(unit)
        targets_NHW = targets(films.masks_NHW, films.lungs_NHW, source.classes)
        yield from zip(torch.from_numpy(films.images_NHW), torch.from_numpy(targets_NHW), strict=True)


def advice(feed: Rate, whole: Rate, against: Rate) -> tuple[str, ...]:
    machines = feed.median / against.median
    if machines > 1.5:
        more = f"the model limits: more cores, a GPU or more workers; this feed would keep {machines:,.0f} such busy"
    else:
        more = "the feed limits: more CPUs beside the workers, or data.cache = memory"
    return (f"the whole reaches {whole.median / against.median:.0%} of {against.name}", more)

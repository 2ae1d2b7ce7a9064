"""The loop of a training worker: steps, validation that counts every film once, a checkpoint after each epoch."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray
import ray.train
import ray.train.torch
import torch
import torch.distributed as dist
from ray.util.queue import Queue
from torch import Tensor

from covseg_ray.config.train import Job
from covseg_ray.engine.session import cores
from covseg_ray.engine.training import loader
from covseg_ray.engine.training.checkpoint import Checkpoints, Record
from covseg_ray.engine.training.learner import Learner, build_learner, configure_torch
from covseg_ray.engine.training.loader import Batch
from covseg_ray.engine.training.sampling import Portion, plain_share, shuffled_share
from covseg_ray.engine.training.split import Source
from covseg_ray.engine.training.tracking import Tracker
from covseg_ray.errors import DatasetError
from covseg_ray.segmentation.evaluation.metrics import point_values
from covseg_ray.segmentation.network.decision import most_probable
from covseg_ray.segmentation.training.augment import AUGMENTATIONS, augment, augment_maps

MESSAGE_SECONDS = 1.0


@dataclass(frozen=True)
class Task:
    """A worker's input from the driver; ``initial`` is the network's state before the first step."""

    job: Job
    train: Source
    val: Source
    initial: ray.ObjectRef[dict[str, Any]]

    @property
    def steps(self) -> int:
        """Optimizer steps an epoch; the films over, fewer than a batch, differ from epoch to epoch."""
        return self.train.rows // self.job.train.batch_size


@dataclass(frozen=True)
class Rank:
    """This worker's rank in a world of so many."""

    index: int
    world: int

    def share(self, batch: int) -> int:
        """This worker's films of each global ``batch``: as many as every other's, or one fewer."""
        return batch * (self.index + 1) // self.world - batch * self.index // self.world

    def weight(self, batch: int) -> float:
        """The weight of this worker's mean in the mean over the global batch, relative to the other workers."""
        return self.share(batch) * self.world / batch


def train_worker(config: dict[str, Any]) -> None:
    """The function that Ray Train runs on each worker; ``messages`` carries dictionaries to the driver."""
    task: Task = config["task"]
    messages: Queue = config["messages"]
    context = ray.train.get_context()
    rank = Rank(context.get_world_rank(), context.get_world_size())
    device = ray.train.torch.get_device()
    configure_torch(device, cores() // context.get_local_world_size())
    learner = build_learner(task.job, task.steps, ray.get(task.initial), device)
    checkpoints = Checkpoints(learner)
    history = checkpoints.restore()
    first = len(history) + 1
    tracker = Tracker(task.job) if rank.index == 0 else None
    image_ids = [i for unit in range(len(task.val.units)) for i in task.val.films(unit).image_ids] if tracker else []
    train, val, val_films = open_streams(task, rank, first, device)
    for epoch in range(first, task.job.train.epochs + 1):
        begin = time.perf_counter()
        record: Record = {"epoch": epoch, "learning_rate": learner.optimizer.param_groups[0]["lr"]}
        record |= train_epoch(task, learner, train, epoch, rank, messages)
        record |= validate(task, learner, val, val_films, image_ids, rank)
        record["seconds"] = time.perf_counter() - begin
        history.append(record)
        if tracker:
            tracker.write(history)
            messages.put({"record": record})
        checkpoints.commit(history)


def open_streams(
    task: Task, rank: Rank, first_epoch: int, device: torch.device
) -> tuple[Iterator[Batch], Iterator[Batch], int]:
    """The batches of this worker's share of all the epochs to come, to train on and to validate on, and how many films
    of the latter make an epoch."""
    job, epochs = task.job, range(first_epoch, task.job.train.epochs + 1)
    val_sizes = [len(unit.rows) for unit in task.val.units]
    batch, share, streams = job.train.batch_size, rank.share(job.train.batch_size), 2 * rank.world
    train: list[Portion] = []
    for e in epochs:
        sizes = [len(rows) for rows in task.train.drawn(job.seed, e)]
        train += shuffled_share(sizes, job.seed, e, rank.index, rank.world, batch)
    val = [p for e in epochs for p in plain_share(val_sizes, e, rank.index, rank.world)]
    return (
        loader.batches(task.train, train, share, device, job.seed, streams),
        loader.batches(task.val, val, share, device, streams=streams),
        sum(p.stop - p.start for p in val if p.epoch == first_epoch),
    )


def train_epoch(
    task: Task, learner: Learner, batches: Iterator[Batch], epoch: int, rank: Rank, messages: Queue
) -> Record:
    """All steps of one epoch. Sums stay on the device until its end, so that nothing waits for the device before."""
    job, recipe = task.job, AUGMENTATIONS[task.job.train.augment]
    learner.network.train()
    begin = reported = time.perf_counter()
    first_batch_seconds, seen = 0.0, (1, torch.zeros(()))
    total = torch.zeros((), device=learner.device)
    overlap = torch.zeros(2, dtype=torch.int64, device=learner.device)
    infection = job.model.classes.index("infection")
    for step in range(task.steps):
        batch = next(batches)
        first_batch_seconds = first_batch_seconds or time.perf_counter() - begin
        seed = int(np.random.SeedSequence((job.seed, epoch, step, rank.index)).generate_state(1)[0])
        images_NHW, targets_NHW = augment(batch.images_NHW, batch.targets_NHW, recipe, seed)
        maps_NCHW = None if batch.maps_NCHW is None else augment_maps(batch.maps_NCHW, recipe, seed)
        logits_NCHW, loss = learner.step(images_NHW, targets_NHW, maps_NCHW, rank.weight(job.train.batch_size))
        total += loss
        found_NHW, truth_NHW = most_probable(logits_NCHW) == infection, targets_NHW == infection
        overlap += torch.stack([(found_NHW & truth_NHW).sum(), (found_NHW | truth_NHW).sum()])
        now = time.perf_counter()
        if rank.index == 0 and (step == 0 or now - reported >= MESSAGE_SECONDS):
            if step > 0:  # with the loss of a message ago: the latest would have to be waited for
                images = (step + 1) * job.train.batch_size
                message = {"epoch": epoch, "step": step + 1, "loss": float(seen[1]) / seen[0]}
                messages.put(message | {"images_per_second": images / (now - begin)})
            reported, seen = now, (step + 1, total.clone().to("cpu", non_blocking=True))
    if rank.world > 1:
        dist.all_reduce(total)
        dist.all_reduce(overlap)
    seconds = time.perf_counter() - begin
    return {
        "loss": float(total) / task.steps / rank.world,
        "train_iou_pooled": float(overlap[0] / overlap[1].clamp(min=1)),
        "train_seconds": seconds,
        "images_per_second": task.steps * job.train.batch_size / seconds,
        "first_batch_seconds": first_batch_seconds,
    }


def validate(
    task: Task, learner: Learner, batches: Iterator[Batch], films: int, image_ids: list[str], rank: Rank
) -> Record:
    """Each worker counts its ``films``; the counts are added over the workers, and the first computes the metrics."""
    share_buffers(learner, rank)
    learner.validated.eval()
    infection = task.job.model.classes.index("infection")
    counts_R4 = torch.zeros(task.val.rows, 4, dtype=torch.int64, device=learner.device)
    loss = torch.zeros((), dtype=torch.float64, device=learner.device)
    with torch.inference_mode():
        while films > 0:
            batch = next(batches)
            logits_NCHW, batch_loss = learner.validated(batch.images_NHW, batch.targets_NHW)
            found_NHW, truth_NHW = most_probable(logits_NCHW) == infection, batch.targets_NHW == infection
            counts_R4[batch.rows_N.to(learner.device, non_blocking=True)] = count_on_device(found_NHW, truth_NHW)
            loss += batch_loss.double() * len(batch.rows_N)
            films -= len(batch.rows_N)
    if rank.world > 1:
        dist.all_reduce(counts_R4)
        dist.all_reduce(loss)
    scores = point_values(image_ids, counts_R4.cpu().numpy()) if rank.index == 0 else {}
    if scores and task.job.train.select not in scores:
        raise DatasetError(
            f"{task.job.data.dataset}: no validation film has infection, so train.select = {task.job.train.select} has "
            "no value; set train.select to iou_all, or validate on films with infection"
        )
    return {"val_loss": float(loss) / task.val.rows, **scores}


def count_on_device(found_NHW: Tensor, truth_NHW: Tensor) -> Tensor:
    """As ``covseg_ray.segmentation.evaluation.metrics.count``, of bool masks on their device; does not wait for it."""
    both_N, found_N, true_N = (each.sum((1, 2)) for each in (found_NHW & truth_NHW, found_NHW, truth_NHW))
    neither_N = found_NHW[0].numel() - found_N - true_N + both_N
    return torch.stack([both_N, found_N - both_N, true_N - both_N, neither_N], dim=1)


def share_buffers(learner: Learner, rank: Rank) -> None:
    """Every worker validates with the batch statistics of the first: between steps they differ."""
    if rank.world > 1:
        for network in dict.fromkeys((learner.network, learner.kept)):  # in one order on every worker
            for buffer in network.buffers():
                dist.broadcast(buffer, 0)

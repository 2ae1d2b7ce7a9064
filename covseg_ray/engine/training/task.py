"""What a training worker is told, and how it tells the driver what it sees."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import ray
from ray.util.queue import Empty, Queue
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from covseg_ray.config.train import Job
from covseg_ray.engine.training.split import Source


@dataclass(frozen=True)
class Task:
    """``initial`` is the network's state before the first step; ``messages`` carries dictionaries to the driver."""

    job: Job
    train: Source
    val: Source
    initial: ray.ObjectRef[dict[str, Any]]
    messages: Queue

    @property
    def steps(self) -> int:
        """Optimizer steps an epoch; the films over, fewer than a batch, differ from epoch to epoch."""
        return self.train.rows // self.job.train.batch_size


def open_messages() -> Queue:
    """A queue on this node: it must not go with another."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return Queue(actor_options={"num_cpus": 0, "scheduling_strategy": here})


def drain(messages: Queue, wait_seconds: float) -> list[dict[str, Any]]:
    """What has come, waiting for the first of it."""
    try:
        first = messages.get(timeout=wait_seconds)
    except Empty:
        return []
    return [first, *messages.get_nowait_batch(messages.qsize())]

"""A training worker's input from the driver."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import ray
from ray.util.queue import Queue

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

"""A training run in this process's Ray session, and what its progress said."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from covseg_ray.config import train as config


class RecordedProgress:
    """A run's progress, written down."""

    def __init__(self) -> None:
        self.updates: list[dict[str, Any]] = []
        self.maps: list[tuple[int, int]] = []
        self.epochs: list[tuple[Mapping[str, float], float]] = []

    def update(self, **values: Any) -> None:
        self.updates.append(values)

    def maps_done(self, films: int, total: int) -> None:
        self.maps.append((films, total))

    def epoch_done(self, record: Mapping[str, float], best: float) -> None:
        self.epochs.append((record, best))


class Run(NamedTuple):
    job: config.Job
    folder: str
    outcome: Any
    progress: RecordedProgress


def run_job(settings: list[str]) -> Run:
    """Train in this process's Ray session."""
    from covseg_ray.engine.training.run import train

    job, progress = config.load(None, settings), RecordedProgress()
    return Run(job, f"{job.out}/{job.name}", train(job, progress), progress)

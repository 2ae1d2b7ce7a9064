"""Monitoring of a search: the table of trials is written as they end, and the lease is checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Protocol

from covseg_ray.engine.tuning.plan import Trial
from covseg_ray.engine.tuning.table import read_ended, result_of, write_table
from covseg_ray.errors import CovsegError
from covseg_ray.reports.trial_result import TrialResult
from covseg_ray.storage.lease import Lease


class Progress(Protocol):
    """Called by ``tune`` while it runs."""

    def begin(self, results: Sequence[TrialResult]) -> None: ...

    def epoch_done(self, number: int, record: Mapping[str, float]) -> None: ...

    def ended(self, result: TrialResult) -> None: ...

    def finishing(self, best: TrialResult) -> None: ...


class SearchMonitor:
    """Called while the trials run. An error that it raises ends the search."""

    def __init__(self, folder: str, trials: Sequence[Trial], select: str, progress: Progress, lease: Lease) -> None:
        self._folder, self._select, self._progress, self._lease = folder, select, progress, lease
        self._trials = {trial.number: trial for trial in trials}
        ended = read_ended(folder)
        self.failures: list[CovsegError] = []
        self.results = {
            number: replace(result_of(trial, ended=False), ended=ended.get(number, ""))
            for number, trial in self._trials.items()
        }

    def epoch(self, number: int, record: Mapping[str, float]) -> None:
        self._progress.epoch_done(number, record)

    def end(self, number: int, failure: CovsegError | None) -> None:
        if failure:
            self.failures.append(failure)
        self.results[number] = result_of(self._trials[number], " ".join(str(failure or "").split()))
        write_table(self._folder, list(self.results.values()), self._select)
        self._progress.ended(self.results[number])

    def check(self) -> None:
        self._lease.check()

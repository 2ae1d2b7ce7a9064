"""Monitoring of a search: the table of trials is written as they end, what they left is removed, the lease checked."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

from ray import tune
from ray.util.placement_group import PlacementGroup, remove_placement_group

from covseg_ray.engine.session import open_messages
from covseg_ray.engine.tuning.plan import Trial
from covseg_ray.engine.tuning.table import read_ended, result_of, write_table
from covseg_ray.errors import CovsegError
from covseg_ray.reports.trial_result import TrialResult
from covseg_ray.storage.lease import Lease

GONE_SECONDS = 5.0  # after its end all that a trial ran is gone; before, it might be started anew


class Progress(Protocol):
    """Called by ``tune`` while it runs."""

    def begin(self, results: Sequence[TrialResult]) -> None: ...

    def maps_done(self, films: int, total: int) -> None: ...

    def epoch_done(self, number: int, record: Mapping[str, float]) -> None: ...

    def ended(self, result: TrialResult) -> None: ...

    def finishing(self, best: TrialResult) -> None: ...


class SearchMonitor(tune.Callback):
    """Acts on Tune's events at the end of each of its steps: an error raised elsewhere would be reported as Tune's. One
    raised there ends the search. ``places`` receives the placement group of each trial's workers, with its number."""

    def __init__(self, folder: str, trials: Sequence[Trial], select: str, progress: Progress, lease: Lease) -> None:
        self._folder, self._select, self._progress, self._lease = folder, select, progress, lease
        self._trials = {trial.number: trial for trial in trials}
        ended = read_ended(folder)
        self.results = {
            number: replace(result_of(trial), ended=ended.get(number, "")) for number, trial in self._trials.items()
        }
        self.failures: dict[int, CovsegError] = {}
        self.places = open_messages()
        self._ended: dict[int, float] = {}  # when, by the trial's number
        self._held: list[tuple[int, PlacementGroup]] = []
        self._epochs: list[tuple[int, dict[str, Any]]] = []
        self._complete: list[int] = []

    def __reduce__(self) -> tuple[type[object], tuple[()]]:
        # Tune pickles its callbacks to restore them; nothing is restored here.
        return object, ()

    def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: dict[str, Any], **info: Any) -> None:
        number = trial.config["trial"]
        if "failure" in result:
            self.failures[number] = result["failure"]
        else:
            self._epochs.append((number, result))

    def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        self._complete.append(trial.config["trial"])

    def on_step_end(self, iteration: int, trials: Any, **info: Any) -> None:
        while self._epochs:
            self._progress.epoch_done(*self._epochs.pop(0))
        while self._complete:
            number = self._complete.pop(0)
            self._ended[number] = time.monotonic()
            failure = " ".join(str(self.failures.get(number, "")).split())
            self.results[number] = result_of(self._trials[number], failure)
            write_table(self._folder, list(self.results.values()), self._select)
            self._progress.ended(self.results[number])
        self.free(GONE_SECONDS)
        self._lease.check()

    def free(self, after_seconds: float) -> None:
        """Remove the placement groups of ended trials: Ray keeps that of a stopped one until the command ends."""
        over = {number for number, at in self._ended.items() if time.monotonic() - at >= after_seconds}
        if not over:
            return
        self._held += self.places.get_nowait_batch(self.places.qsize())
        for number, group in self._held:
            if number in over:
                remove_placement_group(group)
        self._held = [(number, group) for number, group in self._held if number not in over]
        self._ended = {number: at for number, at in self._ended.items() if number not in over}

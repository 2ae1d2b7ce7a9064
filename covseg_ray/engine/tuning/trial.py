"""The trials of a search under Ray Tune: each trains as ``covseg-ray train`` does; weak ones are stopped early.

All that is kept of a trial is in its own folder. Ray Tune's files are for this command alone: it cannot restore its
scheduler's state, which is rebuilt from the trials' records.
"""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any, NamedTuple

import ray
import ray.train
from ray import tune
from ray.tune.schedulers import ASHAScheduler
from ray.util.placement_group import PlacementGroup, remove_placement_group
from ray.util.queue import Queue

from covseg_ray.config.train import Job
from covseg_ray.engine.messages import open_messages
from covseg_ray.engine.training.run import fit
from covseg_ray.engine.training.split import Source
from covseg_ray.engine.training.task import Task
from covseg_ray.engine.training.tracking import METRICS_FILE, read_history
from covseg_ray.engine.training.worker import train_worker
from covseg_ray.engine.tuning.monitor import SearchMonitor
from covseg_ray.errors import CovsegError
from covseg_ray.reports.trial_result import TrialResult
from covseg_ray.storage.filesystem import exists, join

# Leave Ctrl-C to Python; no tables and TensorBoard files of Tune's own.
PLAIN = {
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "RAY_AIR_NEW_OUTPUT": "0",
}
GONE_SECONDS = 5.0  # after its end all that a trial ran is gone; before, it might be started anew
A_LITTLE = 0.001  # of a node's own resource: whoever asks for it runs there


class TrialInputs(NamedTuple):
    """A trial's job, and its films and initial network in the object store."""

    job: Job
    train: Source
    val: Source
    initial: ray.ObjectRef[dict[str, Any]]


@dataclass(frozen=True)
class TrialTask(Task):
    """``places`` receives the placement group of the workers of trial ``number``."""

    number: int
    places: Queue


def search(job: Job, inputs: Mapping[int, TrialInputs], ended: Sequence[TrialResult], monitor: SearchMonitor) -> None:
    """Run the trials in ``inputs``, by their numbers, ``tune.at_once`` side by side.

    A trial is compared with all that came as far, those of ``ended`` among them (asynchronous successive halving: Li et
    al., A system for massively parallel hyperparameter tuning, MLSys 2020)."""
    os.environ.update(PLAIN)
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # failed trials are reported here
    here = {f"node:{ray.util.get_node_ip_address()}": A_LITTLE}  # a trial waits for its workers, which are anywhere
    places = open_messages()
    trainable = tune.with_parameters(run_trial, inputs=dict(inputs), places=places)
    forward = _Forward(monitor, places)
    with TemporaryDirectory(prefix="covseg-ray-tune-") as folder:
        tuner = tune.Tuner(
            tune.with_resources(trainable, tune.PlacementGroupFactory([here])),
            param_space={"trial": tune.grid_search(list(inputs))},
            tune_config=tune.TuneConfig(
                scheduler=scheduler(job, inputs, ended), max_concurrent_trials=job.tune.at_once
            ),
            run_config=tune.RunConfig(storage_path=folder, name="search", verbose=0, callbacks=[forward]),
        )
        for error in tuner.fit().errors:
            raise error
    forward.free(after_seconds=0)


def scheduler(job: Job, inputs: Mapping[int, TrialInputs], ended: Sequence[TrialResult]) -> Any:
    """The scheduler as it would be if the ended trials had just run."""
    longest = max([made.job.train.epochs for made in inputs.values()] + [result.epochs for result in ended])
    asha: Any = ASHAScheduler(
        time_attr="epoch",
        metric=job.train.select,
        mode="max",
        max_t=longest,
        grace_period=min(job.tune.grace, longest),
        reduction_factor=job.tune.reduction,
    )
    for result in ended:
        earlier = SimpleNamespace(trial_id=f"earlier-{result.number}")
        asha.on_trial_add(None, earlier)
        for record in result.history:
            asha.on_trial_result(None, earlier, record)
    return asha


def run_trial(config: dict[str, Any], inputs: Mapping[int, TrialInputs], places: Queue) -> None:
    """The function that Ray Tune runs for each trial, in a process of its own. It resumes from the trial's last
    checkpoint, after reporting the epochs that are done."""
    number = config["trial"]
    made = inputs[number]
    folder = join(made.job.out, made.job.name)
    progress = _TuneProgress(made.job.train.epochs)
    try:
        if exists(join(folder, METRICS_FILE)):
            for record in read_history(folder):
                progress.epoch_done(record)
        fit(TrialTask(*made, open_messages(), number, places), progress, trial_worker)
    except CovsegError as error:
        tune.report({"epoch": 0, made.job.train.select: math.nan, "failure": error})
    else:
        tune.report(progress.last)


def trial_worker(config: dict[str, Any]) -> None:
    """What each training worker of a trial runs."""
    task: TrialTask = config["task"]
    if ray.train.get_context().get_world_rank() == 0:
        task.places.put((task.number, ray.util.get_current_placement_group()))
    train_worker(config)


class _TuneProgress:
    """Reports the records of a trial to Ray Tune, each once; the last only when all is written, as Tune may then end
    the trial at once."""

    def __init__(self, epochs: int) -> None:
        self._epochs, self._done = epochs, 0
        self.last: dict[str, float] = {}

    def update(self, step: int, steps: int, epoch: int, epochs: int, images_per_second: float, loss: float) -> None:
        return

    def epoch_done(self, record: Mapping[str, float], best: float = 0.0) -> None:
        epoch = int(record["epoch"])
        if epoch <= self._done:  # trained again, because its checkpoint had not been written
            return
        self._done, self.last = epoch, dict(record)
        if epoch < self._epochs:
            tune.report(self.last)


class _Forward(tune.Callback):
    """Forwards Tune's events at the end of each of its steps: an error raised elsewhere would be reported as Tune's."""

    def __init__(self, monitor: SearchMonitor, places: Queue) -> None:
        self._monitor, self._places = monitor, places
        self._ended: dict[int, float] = {}  # when, by the trial's number
        self._held: list[tuple[int, PlacementGroup]] = []
        self._results: list[tuple[int, dict[str, Any]]] = []
        self._failures: dict[int, CovsegError] = {}
        self._complete: list[int] = []

    def __reduce__(self) -> tuple[type[object], tuple[()]]:
        # Tune pickles its callbacks to restore them; nothing is restored here.
        return object, ()

    def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: dict[str, Any], **info: Any) -> None:
        number = trial.config["trial"]
        if "failure" in result:
            self._failures[number] = result["failure"]
        else:
            self._results.append((number, result))

    def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        self._complete.append(trial.config["trial"])

    def on_step_end(self, iteration: int, trials: Any, **info: Any) -> None:
        while self._results:
            self._monitor.epoch(*self._results.pop(0))
        while self._complete:
            number = self._complete.pop(0)
            self._ended[number] = time.monotonic()
            self._monitor.end(number, self._failures.get(number))
        self.free(GONE_SECONDS)
        self._monitor.check()

    def free(self, after_seconds: float) -> None:
        """Remove the placement groups of ended trials: Ray keeps that of a stopped one until the command ends."""
        over = {number for number, at in self._ended.items() if time.monotonic() - at >= after_seconds}
        if not over:
            return
        self._held += self._places.get_nowait_batch(self._places.qsize())
        for number, group in self._held:
            if number in over:
                remove_placement_group(group)
        self._held = [(number, group) for number, group in self._held if number not in over]
        self._ended = {number: at for number, at in self._ended.items() if number not in over}

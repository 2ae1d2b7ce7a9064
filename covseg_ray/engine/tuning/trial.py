"""The trials of a search under Ray Tune: each trains as ``covseg-ray train`` does; weak ones are stopped early.

All that is kept of a trial is in its own folder. Ray Tune's files are for this command alone: it cannot restore its
scheduler's state, which is rebuilt from the trials' records.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Mapping, Sequence
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import ray
import ray.train
from ray import tune
from ray.tune.schedulers import ASHAScheduler
from ray.util.queue import Queue

from covseg_ray.config.train import Job
from covseg_ray.engine.training.run import Progress, fit
from covseg_ray.engine.training.worker import Task, train_worker
from covseg_ray.engine.tuning.monitor import SearchMonitor
from covseg_ray.engine.tuning.table import history_of
from covseg_ray.errors import CovsegError
from covseg_ray.reports.trial_result import TrialResult

# Leave Ctrl-C to Python; no tables and TensorBoard files of Tune's own.
PLAIN = {
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "RAY_AIR_NEW_OUTPUT": "0",
}
A_LITTLE = 0.001  # of a node's own resource: whoever asks for it runs there


def search(job: Job, tasks: Mapping[int, Task], ended: Sequence[TrialResult], monitor: SearchMonitor) -> None:
    """Run the trials in ``tasks``, by their numbers, ``tune.at_once`` side by side.

    A trial is compared with all that came as far, those of ``ended`` among them (asynchronous successive halving: Li et
    al., A system for massively parallel hyperparameter tuning, MLSys 2020)."""
    os.environ.update(PLAIN)
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # failed trials are reported here
    here = {f"node:{ray.util.get_node_ip_address()}": A_LITTLE}  # a trial waits for its workers, which are anywhere
    trainable = tune.with_parameters(run_trial, tasks=dict(tasks), places=monitor.places)
    with TemporaryDirectory(prefix="covseg-ray-tune-") as folder:
        tuner = tune.Tuner(
            tune.with_resources(trainable, tune.PlacementGroupFactory([here])),
            param_space={"trial": tune.grid_search(list(tasks))},
            tune_config=tune.TuneConfig(scheduler=scheduler(job, tasks, ended), max_concurrent_trials=job.tune.at_once),
            run_config=tune.RunConfig(storage_path=folder, name="search", verbose=0, callbacks=[monitor]),
        )
        for error in tuner.fit().errors:
            raise error
    monitor.free(after_seconds=0)


def scheduler(job: Job, tasks: Mapping[int, Task], ended: Sequence[TrialResult]) -> Any:
    """The scheduler as it would be if the ended trials had just run."""
    longest = max([task.job.train.epochs for task in tasks.values()] + [result.epochs for result in ended])
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


def run_trial(config: dict[str, Any], tasks: Mapping[int, Task], places: Queue) -> None:
    """The function that Ray Tune runs for each trial, in a process of its own. It resumes from the trial's last
    checkpoint, after reporting the epochs that are done."""
    number = config["trial"]
    job = tasks[number].job
    progress = _TuneProgress(job.train.epochs)

    def worker(config: dict[str, Any]) -> None:
        if ray.train.get_context().get_world_rank() == 0:
            places.put((number, ray.util.get_current_placement_group()))
        train_worker(config)

    try:
        for record in history_of(job):
            progress.epoch_done(record)
        fit(tasks[number], progress, worker)
    except CovsegError as error:
        tune.report({"epoch": 0, job.train.select: math.nan, "failure": error})
    else:
        tune.report(progress.last)


class _TuneProgress(Progress):
    """Reports the records of a trial to Ray Tune, each once; the last only when all is written, as Tune may then end
    the trial at once."""

    def __init__(self, epochs: int) -> None:
        self._epochs, self._done = epochs, 0
        self.last: dict[str, float] = {}

    def epoch_done(self, record: Mapping[str, float], best: float = 0.0) -> None:
        epoch = int(record["epoch"])
        if epoch <= self._done:  # trained again, because its checkpoint had not been written
            return
        self._done, self.last = epoch, dict(record)
        if epoch < self._epochs:
            tune.report(self.last)

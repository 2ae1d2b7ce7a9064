"""One training run, from a job to a bundle and a report: check, prepare, fit under Ray Train."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Event, Thread
from typing import Any, Protocol

import ray
import ray.train
from ray.exceptions import RayTaskError
from ray.train import CheckpointConfig, RunConfig
from ray.train.torch import TorchTrainer
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.util.queue import Queue

from covseg_ray.config.train import Job, differences
from covseg_ray.engine.bundle_io import load_bundle
from covseg_ray.engine.session import counted, open_messages, original_error, session
from covseg_ray.engine.training.films import cached, check_sizes, find_films
from covseg_ray.engine.training.finalize import BUNDLE, REPORT, finalize
from covseg_ray.engine.training.initial import initial_network
from covseg_ray.engine.training.teachers import MAPS, load_teachers, taught
from covseg_ray.engine.training.tracking import read_history
from covseg_ray.engine.training.worker import Task, train_worker
from covseg_ray.errors import CovsegError, StorageError, UsageError
from covseg_ray.segmentation.estimate import Estimate
from covseg_ray.storage.filesystem import arrow_filesystem, exists, join, locate, read_bytes, write_bytes
from covseg_ray.storage.lease import hold

JOB_FILE = "job.json"
# To the type checker ray.train gives the classes of Ray Train's first version, without the options used here.
_SCALING: Any = ray.train.ScalingConfig
_FAILURES: Any = ray.train.FailureConfig
GIB = 2**30
POLL_SECONDS = 1.0  # how often the workers' messages are read
RESIZE_SECONDS = 300.0  # with a range of workers: how often to check for more. A change restarts the epoch


class Progress(Protocol):
    """Called by ``train`` while it runs."""

    def update(self, step: int, steps: int, epoch: int, epochs: int, images_per_second: float, loss: float) -> None:
        return

    def maps_done(self, films: int, total: int) -> None:
        """Before training: so many films have their teachers' maps."""
        return

    def epoch_done(self, record: Mapping[str, float], best: float) -> None: ...


@dataclass(frozen=True)
class Outcome:
    """``best`` is the record of the epoch that became the bundle, ``seconds`` what this command took."""

    bundle: str
    report: str
    epochs: int
    best: Mapping[str, float]
    metrics: Mapping[str, Estimate]
    seconds: float


def train(
    job: Job, progress: Progress, address: str | None = None, allow_open: bool = False, maps: str | None = None
) -> Outcome:
    """Run a job to its end; resumes an earlier run of the same name. ``maps`` is the folder of the teachers' maps, if
    it is another than the run's own.

    Raises the errors of ``covseg_ray.errors``, BusyError while another process holds the same run. What can be checked
    is checked before Ray starts."""
    begin = time.perf_counter()
    if job.search:
        raise UsageError("the job has a [[search]]: covseg-ray tune runs it and writes best.toml, for covseg-ray train")
    job = job.model_copy(update={"out": locate(job.out).uri})  # for workers, whose current folder is another
    folder = join(job.out, job.name)
    network = initial_network(job)
    sources = {split: find_films(job, split) for split in ("train", "val")}
    teachers = load_teachers(job)
    check_sizes(job, sources)
    if exists(join(folder, BUNDLE, "model.json")):  # a finished run is read, and nothing is written there
        check_same_job(folder, job)
    else:
        with hold(folder) as held:
            check_same_job(folder, job)
            with session(address, job.most_workers, allow_open):
                maps = maps or join(folder, MAPS)
                sources["train"] = taught(sources["train"], teachers, maps, job.fewest_workers, progress.maps_done)
                films = cached(job, sources)
                task = Task(job, films["train"], films["val"], ray.put(network.state_dict()))
                checkpoint = fit(task, progress)
                held.check()
                finalize(job, folder, checkpoint, sources["train"].rows, teachers)
    history = read_history(folder)
    bundle = load_bundle(join(folder, BUNDLE))
    return Outcome(
        bundle=join(folder, BUNDLE),
        report=join(folder, REPORT),
        epochs=len(history),
        best=max(reversed(history), key=lambda record: record[job.train.select]),  # of equals, Ray keeps the last
        metrics=bundle.spec.metrics,
        seconds=time.perf_counter() - begin,
    )


def check_same_job(folder: str, job: Job) -> None:
    """Write the job into the run's folder, or raise UsageError where another job started the run there."""
    path = join(folder, JOB_FILE)
    if not exists(path):
        write_bytes(path, job.model_dump_json(indent=2).encode())
        return
    earlier = Job.model_validate_json(read_bytes(path))
    if found := differences(earlier, job):
        changes = ", ".join(f"{key} was {old!r}, is {new!r}" for key, (old, new) in found.items())
        raise UsageError(
            f"{folder} holds another run: {changes}; choose another --set name=NAME, or delete that folder"
        )


class _Trainer(TorchTrainer):
    """Leaves Ctrl-C to Python: Ray Train's handler would end the command as if it were done."""

    def _register_sigint_handler(self, controller: object) -> None:
        return

    def _create_default_callbacks(self) -> list[Any]:
        # Without the actor that removes the placement group of a lost run: it asks the dashboard, which a local session
        # does not have, so after each stopped trial of ``tune`` it would run until the command ends.
        # ``engine.tuning.trial`` removes the group.
        every = super()._create_default_callbacks()  # type: ignore[misc]
        return [each for each in every if not isinstance(each, PlacementGroupCleanerCallback)]


def fit(
    task: Task, progress: Progress, worker: Callable[[dict[str, Any]], None] = train_worker
) -> ray.train.Checkpoint:
    """Train under Ray Train with ``worker`` on each worker; returns the checkpoint of the best epoch."""
    job, messages = task.job, open_messages()
    location = locate(join(job.out, job.name))
    trainer = _Trainer(
        worker,
        train_loop_config={"task": task, "messages": messages},
        scaling_config=scaling(job),
        run_config=RunConfig(
            name="checkpoints",
            storage_path=location.path,
            storage_filesystem=None if location.is_local else arrow_filesystem(location),
            failure_config=_FAILURES(
                max_failures=job.resources.max_failures, max_preemption_failures=job.resources.max_preemptions
            ),
            checkpoint_config=CheckpointConfig(num_to_keep=1, checkpoint_score_attribute=job.train.select),
        ),
    )
    with forwarded(task, messages, progress):
        try:
            result = trainer.fit()
        except ray.train.TrainingFailedError as error:
            raise cause_of(error, join(job.out, job.name)) from error
    best = result.get_best_checkpoint(job.train.select, "max")
    if best is None:
        raise CovsegError(f"{join(job.out, job.name)}: no epoch was finished, so there is no model; see train.epochs")
    return best


def scaling(job: Job) -> Any:
    """The ``ray.train.ScalingConfig`` of what the workers ask of the cluster."""
    asked, gpus = job.resources, counted("GPU")
    resources = {"CPU": asked.cpus_per_worker, "memory": asked.memory_gib_per_worker * GIB}
    return _SCALING(
        num_workers=job.workers,
        use_gpu=asked.gpu == "yes" or (asked.gpu == "auto" and gpus >= job.fewest_workers),
        resources_per_worker={name: amount for name, amount in resources.items() if amount},
        label_selector=dict(label.split("=") for label in asked.node_labels) or None,
        elastic_resize_monitor_interval_s=RESIZE_SECONDS,
    )


@contextmanager
def forwarded(task: Task, messages: Queue, progress: Progress) -> Iterator[None]:
    """Forward the workers' messages to ``progress`` while the block runs."""
    done = Event()
    thread = Thread(target=_listen, args=(task, messages, progress, done), daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _listen(task: Task, messages: Queue, progress: Progress, done: Event) -> None:
    best = 0.0
    while True:
        finished = done.wait(POLL_SECONDS)
        for message in messages.get_nowait_batch(messages.qsize()):
            if "record" in message:
                best = max(best, message["record"][task.job.train.select])
                progress.epoch_done(message["record"], best)
            else:
                progress.update(**message, steps=task.steps, epochs=task.job.train.epochs)
        if finished:
            return


def cause_of(error: ray.train.TrainingFailedError, folder: str) -> CovsegError:
    """The error that made Ray Train fail, as one line for the user."""
    failures = list(getattr(error, "worker_failures", {}).values()) or [getattr(error, "controller_failure", error)]
    for failure in failures:
        cause: BaseException | None = failure
        while cause is not None:
            if isinstance(cause, RayTaskError):
                cause = original_error(cause)
            if isinstance(cause, CovsegError):
                return cause
            if isinstance(cause, OSError) and "No space left" in str(cause):
                return StorageError(
                    f"{folder}: storage full while a checkpoint was written; the earlier checkpoints are whole: "
                    "free space and run the same command again to resume"
                )
            cause = cause.__cause__ or cause.__context__
    last_line = str(failures[0]).strip().splitlines()[-1]
    return CovsegError(f"{folder}: training stopped: {last_line}; run the same command again to resume")

"""A search over keys of the job: plan and check the trials, run them under Ray Tune, and keep the best one's model."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ray

from covseg_ray.config.train import Data, Job, Model, written
from covseg_ray.engine.bundle_io import load_bundle, save_bundle
from covseg_ray.engine.session import session
from covseg_ray.engine.training.films import cached, check_sizes, find_films
from covseg_ray.engine.training.finalize import BUNDLE, REPORT
from covseg_ray.engine.training.initial import initial_network
from covseg_ray.engine.training.run import Progress as TrainingProgress
from covseg_ray.engine.training.run import check_same_job, train
from covseg_ray.engine.training.split import Source
from covseg_ray.engine.training.teachers import MAPS, load_teachers, taught
from covseg_ray.engine.training.worker import Task
from covseg_ray.engine.tuning.monitor import Progress, SearchMonitor
from covseg_ray.engine.tuning.plan import Trial, edge_jobs, plan
from covseg_ray.engine.tuning.table import in_own_folder, read_ended, result_of, write_table
from covseg_ray.engine.tuning.trial import search
from covseg_ray.reports.search_page import search_report
from covseg_ray.reports.trial_result import TrialResult, best_of, format_value
from covseg_ray.segmentation.network.bundle import Bundle
from covseg_ray.storage.datasets.read import read_info
from covseg_ray.storage.filesystem import delete, exists, join, locate, write_bytes
from covseg_ray.storage.lease import Lease, hold

BEST_JOB = "best.toml"

FilmsKey = tuple[Data, tuple[str, ...], tuple[str, ...]]  # films, classes, teachers


@dataclass(frozen=True)
class Outcome:
    """``best`` is one of ``results``, ``job`` its job file, ``seconds`` what this command took."""

    results: Sequence[TrialResult]
    best: TrialResult
    job: str
    bundle: str
    report: str
    seconds: float


@dataclass(frozen=True)
class SharedInputs:
    """What trials share: films, teachers and initial networks, by the parts of the job that they depend on."""

    films: dict[FilmsKey, dict[str, Source]]
    teachers: dict[FilmsKey, tuple[Bundle, ...]]
    networks: dict[tuple[Model, int], dict[str, Any]]


def tune(job: Job, progress: Progress, address: str | None = None, allow_open: bool = False) -> Outcome:
    """Run a search to its end; resumes an earlier one of the same name.

    Raises the errors of ``covseg_ray.errors``, BusyError while another process holds the same search. What can be
    checked is checked before Ray starts."""
    begin = time.perf_counter()
    job = job.model_copy(update={"out": locate(job.out).uri})  # for workers, whose current folder is another
    folder = join(job.out, job.name)
    trials = [in_own_folder(trial, folder) for trial in plan(job)]
    shared = load_shared([*edge_jobs(job), *(trial.job for trial in trials)])
    numbers = {trial.number for trial in trials}
    if exists(join(folder, BEST_JOB)) and read_ended(folder).keys() == numbers:  # finished: nothing is written there
        check_same_job(folder, job)
        results = [result_of(trial) for trial in trials]
    else:
        with hold(folder) as lease:
            check_same_job(folder, job)
            for trial in trials:
                check_same_job(join(trial.job.out, trial.job.name), trial.job)
            with session(address, job.tune.at_once * job.most_workers, allow_open):
                results = run(job, trials, shared, progress, lease)
                results = keep_best(job, trials, results, progress, lease)
    return Outcome(
        results=results,
        best=best_of(results, job.train.select),
        job=join(folder, BEST_JOB),
        bundle=join(folder, BUNDLE),
        report=join(folder, REPORT),
        seconds=time.perf_counter() - begin,
    )


def load_shared(jobs: Sequence[Job]) -> SharedInputs:
    """The films, teachers and networks of these jobs; also the check that each of them can be trained."""
    found = SharedInputs({}, {}, {})
    for job in jobs:
        films, network = _films_key(job), _network_key(job)
        if films not in found.films:
            found.films[films] = {split: find_films(job, split) for split in ("train", "val")}
            found.teachers[films] = load_teachers(job)
        check_sizes(job, found.films[films])
        if network not in found.networks:
            found.networks[network] = initial_network(job).state_dict()
    return found


def _films_key(job: Job) -> FilmsKey:
    return job.data, job.model.classes, job.model.teachers


def _network_key(job: Job) -> tuple[Model, int]:
    return job.model, job.seed


def prepare(trials: Sequence[Trial], shared: SharedInputs, maps: str, progress: Progress) -> dict[int, Task]:
    """The tasks of the trials, in the object store; films are decoded once for all of them, and their teachers' maps
    computed once, in the folder ``maps``."""
    decoded = {}
    for key, job in {_films_key(trial.job): trial.job for trial in trials}.items():
        train, val = (shared.films[key][split] for split in ("train", "val"))
        train = taught(train, shared.teachers[key], maps, job.fewest_workers, progress.maps_done)
        decoded[key] = cached(job, {"train": train, "val": val})
    networks = {_network_key(trial.job) for trial in trials}
    initial = {key: ray.put(shared.networks[key]) for key in networks}
    return {
        trial.number: Task(
            trial.job,
            decoded[_films_key(trial.job)]["train"],
            decoded[_films_key(trial.job)]["val"],
            initial[_network_key(trial.job)],
        )
        for trial in trials
    }


def run(job: Job, trials: Sequence[Trial], shared: SharedInputs, progress: Progress, lease: Lease) -> list[TrialResult]:
    """Run the trials that have not ended yet. Raises the first failure where each of them failed."""
    folder, select = join(job.out, job.name), job.train.select
    monitor = SearchMonitor(folder, trials, select, progress, lease)
    progress.begin(list(monitor.results.values()))
    ended = [result for result in monitor.results.values() if result.ended]
    waiting = [trial for trial in trials if not monitor.results[trial.number].ended]
    delete(join(folder, BEST_JOB))
    if waiting:
        search(job, prepare(waiting, shared, join(folder, MAPS), progress), ended, monitor)
    results = list(monitor.results.values())
    if len(monitor.failures) == len(results):
        raise next(iter(monitor.failures.values()))
    return results


def keep_best(
    job: Job, trials: Sequence[Trial], results: Sequence[TrialResult], progress: Progress, lease: Lease
) -> list[TrialResult]:
    """Train the best trial to its end, if it was stopped, and keep its model; then the report and, last, its job."""
    folder, select = join(job.out, job.name), job.train.select
    number = best_of(results, select).number
    best = trials[number - 1]
    progress.finishing(results[number - 1])
    bundle = train(best.job, _BestTrialProgress(number, progress), maps=join(folder, MAPS)).bundle
    last = [result_of(best) if result.number == number else result for result in results]
    lease.check()
    write_table(folder, last, select)
    save_bundle(join(folder, BUNDLE), load_bundle(bundle))
    page = search_report(title=job.name, results=last, select=select, facts=facts(job))
    write_bytes(join(folder, REPORT), page.encode())
    again = best.job.model_copy(update={"out": job.out, "name": f"{job.name}-best"})
    write_bytes(join(folder, BEST_JOB), written(again).encode())
    return last


class _BestTrialProgress(TrainingProgress):
    """The progress of the best trial where it is trained on, as that of any trial."""

    def __init__(self, number: int, progress: Progress) -> None:
        self._number, self._progress = number, progress

    def epoch_done(self, record: Mapping[str, float], best: float) -> None:
        self._progress.epoch_done(self._number, record)


def facts(job: Job) -> dict[str, str]:
    """What was searched and how, for the report's table of facts."""
    spaces = [
        f"{each.key}: {', '.join(format_value(value) for value in each.choose)}"
        if each.choose
        else f"{each.key}: {each.low} to {each.high}{', evenly by the logarithm' if each.log else ''}"
        for each in job.search
    ]
    tune = job.tune
    return {
        "Searched": "; ".join(spaces),
        "Trials": f"{tune.trials}, {tune.at_once} at once, seed {job.seed}",
        "Stopped early": f"at epoch {tune.grace}, at {tune.reduction} times as many and so on, where a trial is not "
        f"among the best 1 of {tune.reduction} of those that came as far before it",
        "Films": f"{job.data.dataset}, {', '.join(job.data.labels) if job.data.labels else 'all labels'}",
        "Dataset digest": read_info(job.data.dataset).digest,
    }

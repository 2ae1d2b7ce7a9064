"""A search under Ray Tune on phantoms: what it leaves, whom it stops, and that a killed one goes on."""

from __future__ import annotations

import csv
import json
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import ray
from random_models import random_model
from runs import Command, descendants, epochs, title

from covseg_ray.config import train as config
from covseg_ray.engine.bundle_io import save_bundle
from covseg_ray.engine.training.worker import Task
from covseg_ray.engine.tuning.plan import plan
from covseg_ray.engine.tuning.run import Outcome, load_shared, prepare, tune
from covseg_ray.engine.tuning.trial import scheduler
from covseg_ray.errors import BusyError, DatasetError, UsageError
from covseg_ray.reports.trial_result import FINISHED, STOPPED, TrialResult
from covseg_ray.storage.datasets.pack import synthesise
from covseg_ray.storage.filesystem import list_files, read_bytes

pytestmark = pytest.mark.timeout(900)  # Ray's start alone takes minutes on a machine that is busy

EPOCHS = 8
RATES = GOOD, HOPELESS, BETTER = 1e-3, 1e-9, 3e-4
OF_A_TRIAL = ("ray::ImplicitFunc", "ray::TrainController", "ray::RayTrainWorker", "ray::PlacementGroupCleaner")


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A search of three trials, the second of which learns nothing: 2 steps an epoch on films of 32 pixels. Those that
    have not ended after 2 epochs go on to the end."""
    dataset = str(tmp_path_factory.mktemp("films") / "dataset")
    synthesise(dataset, 24, seed=7, size=32)
    return [
        f"data.dataset={dataset}",
        "name=search",
        "model.encoder=tu-test_resnet",
        "model.encoder_weights=none",
        f"train.epochs={EPOCHS}",
        "train.batch_size=8",
        "train.precision=fp32",
        "train.augment=none",
        "train.select=iou_pooled",
        "tracking.tensorboard=false",
        "tune.trials=3",
        "tune.grace=2",
        "tune.reduction=4",
        f"seed={seed_that_draws(RATES)}",
        f"search={SEARCH}",
    ]


SEARCH = f'[{{key = "train.learning_rate", choose = [{GOOD}, {HOPELESS}, {BETTER}]}}]'


def seed_that_draws(rates: Sequence[float]) -> int:
    for seed in range(1000):
        job = config.load(None, [f"search={SEARCH}", f"tune.trials={len(rates)}", f"seed={seed}"])
        if [trial.values["train.learning_rate"] for trial in plan(job)] == list(rates):
            return seed
    raise AssertionError("no such seed")


class RecordedProgress:
    """A search's progress, written down."""

    def __init__(self) -> None:
        self.begun: list[TrialResult] = []
        self.epochs: list[tuple[int, Mapping[str, float]]] = []
        self.ends: list[TrialResult] = []
        self.maps: list[tuple[int, int]] = []

    def begin(self, results: Sequence[TrialResult]) -> None:
        self.begun = list(results)

    def maps_done(self, films: int, total: int) -> None:
        self.maps.append((films, total))

    def epoch_done(self, number: int, record: Mapping[str, float]) -> None:
        self.epochs.append((number, record))

    def ended(self, result: TrialResult) -> None:
        self.ends.append(result)

    def finishing(self, best: TrialResult) -> None:
        return


class Searched(NamedTuple):
    job: config.Job
    folder: Path
    outcome: Outcome
    progress: RecordedProgress


def search(settings: Sequence[str]) -> Searched:
    job, progress = config.load(None, settings), RecordedProgress()
    return Searched(job, Path(job.out, job.name), tune(job, progress), progress)


@pytest.fixture(scope="module")
def searched(ray_session: None, settings: list[str], tmp_path_factory: pytest.TempPathFactory) -> Searched:
    """The search, run once without a hitch."""
    return search([*settings, f"out={tmp_path_factory.mktemp('searched')}"])


def history(folder: Path, number: int) -> list[dict[str, Any]]:
    lines = (folder / f"trials/{number:04d}/metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "trials.csv").open() as table:
        return list(csv.DictReader(table))


def test_every_trial_stands_in_the_table_as_its_own_records_say(searched: Searched) -> None:
    table = rows(searched.folder)
    assert [row["trial"] for row in table] == ["1", "2", "3"]
    assert [float(row["train.learning_rate"]) for row in table] == list(RATES)
    for number, row in enumerate(table, start=1):
        scores = [record["iou_pooled"] for record in history(searched.folder, number)]
        assert int(row["epochs"]) == len(scores)
        assert float(row["iou_pooled"]) == max(scores)
        assert scores[int(row["best_epoch"]) - 1] == max(scores)
        assert row["ended"] == (FINISHED if len(scores) == EPOCHS else STOPPED)


def test_the_hopeless_trial_is_stopped_and_leaves_nothing_running(searched: Searched) -> None:
    row = rows(searched.folder)[1]
    assert row["ended"] == STOPPED
    assert 1 <= int(row["epochs"]) < EPOCHS
    deadline = time.monotonic() + 60
    while left := [title(pid)[:40] for pid in descendants(os.getpid()) if title(pid).startswith(OF_A_TRIAL)] or held():
        assert time.monotonic() < deadline, left
        time.sleep(0.5)


def held() -> list[str]:
    """The placement groups that hold resources."""
    groups = ray.util.placement_group_table()
    return [name for name, group in groups.items() if group["state"] != "REMOVED"]


def test_the_best_has_the_highest_score_of_all_records(searched: Searched) -> None:
    scores = {number: max(r["iou_pooled"] for r in history(searched.folder, number)) for number in (1, 2, 3)}
    best = searched.outcome.best
    assert best.score("iou_pooled") == scores[best.number] == max(scores.values())
    bundle = json.loads((searched.folder / "bundle/model.json").read_text())
    assert bundle["metrics"]["iou_pooled"]["value"] == pytest.approx(max(scores.values()), abs=5e-3)
    own = (searched.folder / f"trials/{best.number:04d}/bundle/model.safetensors").read_bytes()
    assert (searched.folder / "bundle/model.safetensors").read_bytes() == own


def test_the_best_job_is_the_trials_job_under_a_name_of_its_own(searched: Searched) -> None:
    best = searched.outcome.best
    job = config.load(searched.outcome.job)
    trained = config.Job.model_validate_json((searched.folder / f"trials/{best.number:04d}/job.json").read_text())
    assert config.differences(job, trained) == {}
    assert job.train.learning_rate == best.values["train.learning_rate"]
    assert (job.out, job.name, job.search) == (searched.job.out, "search-best", ())


def test_the_progress_is_what_the_trials_recorded(searched: Searched) -> None:
    progress = searched.progress
    assert [result.ended for result in progress.begun] == [""] * 3
    assert sorted(result.number for result in progress.ends) == [1, 2, 3]
    for number in (1, 2, 3):
        seen = [record["iou_pooled"] for each, record in progress.epochs if each == number]
        assert seen == [record["iou_pooled"] for record in history(searched.folder, number)][: len(seen)]
        assert seen


def test_given_again_a_finished_search_trains_nothing(searched: Searched) -> None:
    before = {name: read_bytes(f"{searched.folder}/{name}") for name in list_files(str(searched.folder))}
    progress = RecordedProgress()
    outcome = tune(searched.job, progress)
    assert (progress.begun, progress.epochs, progress.ends) == ([], [], [])
    assert (outcome.results, outcome.best) == (searched.outcome.results, searched.outcome.best)
    assert {name: read_bytes(f"{searched.folder}/{name}") for name in list_files(str(searched.folder))} == before


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("tune.grace=1", "tune.grace was 2, is 1"),
        ('search=[{key = "train.epochs", choose = [8]}]', "search of train.learning_rate was .* is None"),
        ("search=[]", r"the job has no \[\[search\]\]"),
    ],
)
def test_another_search_of_the_same_name_is_refused(searched: Searched, settings: list[str], change: str, named: str):
    job = config.load(None, [*settings, f"out={searched.job.out}", change])
    with pytest.raises(UsageError, match=named):
        tune(job, RecordedProgress())


def test_what_cannot_be_trained_is_told_before_ray_starts(settings: list[str], tmp_path: Path) -> None:
    for change, error, message in (
        ("data.dataset=", UsageError, "data.dataset is not set"),
        ('search=[{key = "train.loss", choose = ["focal+jackard"]}]', UsageError, "input should be 'focal.jaccard'"),
        ('search=[{key = "model.encoder", choose = ["resnet19"]}]', UsageError, "unknown name 'resnet19'"),
        ('search=[{key = "train.batch_size", choose = [8, 800]}]', DatasetError, "fewer than one global batch of 800"),
    ):
        with pytest.raises(error, match=message):
            tune(config.load(None, [*settings, f"out={tmp_path}", change]), RecordedProgress())
    assert list_files(str(tmp_path)) == []


def test_trials_share_the_maps_of_their_teachers(ray_session: None, settings: list[str], tmp_path: Path) -> None:
    save_bundle(f"{tmp_path}/teacher", random_model(3, ("background", "infection"), side=32))
    changes = [f"out={tmp_path}", f'model.teachers=["{tmp_path}/teacher"]', "tune.trials=4"]
    job = config.load(None, [*settings, *changes, 'search=[{key = "train.soft", choose = [0.2, 0.8]}]'])
    trials, progress = plan(job), RecordedProgress()
    tasks = prepare(trials, load_shared([trial.job for trial in trials]), f"{tmp_path}/maps", progress)
    assert {task.job.train.soft for task in tasks.values()} == {0.2, 0.8}
    (folder,) = Path(tmp_path, "maps").iterdir()
    assert {task.train.maps for task in tasks.values()} == {str(folder)}
    assert {task.val.maps for task in tasks.values()} == {""}
    train = tasks[1].train
    assert len(list(folder.iterdir())) == len(train.units)
    assert progress.maps[0] == (0, train.rows)
    assert progress.maps[-1] == (train.rows, train.rows)


def test_the_scheduler_remembers_trials_of_earlier_commands() -> None:
    """By hand: with rungs at 1, 2 and 4 epochs and reduction 2, a trial goes on where it is not below the median of
    those that came to that rung before."""
    job = config.load(None, ["tune.grace=1", "tune.reduction=2", "train.epochs=4", "train.select=dice_all"])
    earlier = [
        TrialResult(number, {}, 4, [{"epoch": e + 1, "dice_all": s} for e, s in enumerate(scores)], FINISHED)
        for number, scores in enumerate([(0.2, 0.3, 0.3, 0.4), (0.4, 0.5, 0.6, 0.6)], start=1)
    ]

    class Trial(NamedTuple):
        trial_id: str

    def decisions(scores: Sequence[float], ended: Sequence[TrialResult]) -> list[str]:
        asha = scheduler(job, {9: Task(job, None, None, None)}, ended)  # type: ignore[arg-type]
        asha.on_trial_add(None, Trial("new"))
        records = [{"epoch": epoch, "dice_all": score} for epoch, score in enumerate(scores, start=1)]
        return [asha.on_trial_result(None, Trial("new"), record) for record in records]

    assert decisions([0.29], earlier) == ["STOP"]  # the median at epoch 1 is 0.3
    assert decisions([0.31, 0.39], earlier) == ["CONTINUE", "STOP"]  # 0.4 at epoch 2
    assert decisions([0.31, 0.41, 0.0], earlier) == ["CONTINUE"] * 3  # no rung at epoch 3
    assert decisions([0.0, 0.0, 0.0], []) == ["CONTINUE"] * 3  # nobody to compare with


def test_a_killed_search_given_again_repeats_no_finished_trial(
    searched: Searched, settings: list[str], tmp_path: Path
) -> None:
    own = [*settings, f"out={tmp_path}"]
    words = ["tune", "-c", os.devnull, *(word for setting in own for word in ("--set", setting))]
    folder = tmp_path / "search"
    with Command(words, tmp_path) as command:
        deadline = time.monotonic() + 400
        while not (folder / "trials.csv").exists() or not epochs(folder / "trials/0002"):
            assert command.process.poll() is None, command.errors.read_text()
            assert time.monotonic() < deadline, "waited too long"
            time.sleep(0.05)
        with pytest.raises(BusyError, match=f"process {command.process.pid} "):
            search(own)
    assert not (folder / "best.toml").exists()
    first = (folder / "trials/0001/metrics.jsonl").read_bytes()
    again = search(own)
    assert (folder / "trials/0001/metrics.jsonl").read_bytes() == first
    assert 1 not in {number for number, _ in again.progress.epochs}
    assert [row["ended"] for row in rows(folder)] == [row["ended"] for row in rows(searched.folder)]
    timed = {"seconds", "train_seconds", "images_per_second", "first_batch_seconds"}
    for number in (1, 2, 3):
        ours, theirs = (history(each, number) for each in (folder, searched.folder))
        assert [record["epoch"] for record in ours] == list(range(1, len(ours) + 1))
        for one, other in zip(ours, theirs, strict=False):  # a trial that is stopped may do an epoch more or less
            assert {key: one[key] for key in one if key not in timed} == {k: other[k] for k in other if k not in timed}
    assert again.outcome.best.number == searched.outcome.best.number

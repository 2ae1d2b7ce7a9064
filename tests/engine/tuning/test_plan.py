"""The values that a search draws, and what of it is refused."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from places import ROOT

from covseg_ray.config import train as config
from covseg_ray.engine.tuning.plan import edge_jobs, plan
from covseg_ray.errors import ConfigError

SEARCH = """
name = "s"
tune.trials = 400
[[search]]
key = "train.learning_rate"
low = 1e-4
high = 1e-2
log = true
[[search]]
key = "train.weight_decay"
low = 0
high = 1
[[search]]
key = "train.batch_size"
low = 8
high = 11
[[search]]
key = "data.labels"
choose = [["COVID-19"], ["COVID-19", "Normal"]]
"""
KEYS = ["train.learning_rate", "train.weight_decay", "train.batch_size", "data.labels"]


@pytest.fixture
def job(tmp_path: Path) -> config.Job:
    (tmp_path / "job.toml").write_text(SEARCH)
    return config.load(str(tmp_path / "job.toml"))


def test_values_are_spread_over_their_ranges_and_choices(job: config.Job) -> None:
    rates, decays, batches, labels = ([trial.values[key] for trial in plan(job)] for key in KEYS)
    logs = np.log10(rates)
    assert min(rates) >= 1e-4
    assert max(rates) <= 1e-2
    assert np.quantile(logs, [0.25, 0.5, 0.75]) == pytest.approx([-3.5, -3, -2.5], abs=0.15)
    assert np.quantile(decays, [0.25, 0.5, 0.75]) == pytest.approx([0.25, 0.5, 0.75], abs=0.08)
    assert {type(value) for value in decays} == {float}
    assert [np.mean([batch == size for batch in batches]) for size in (8, 9, 10, 11)] == pytest.approx(
        [0.25] * 4, abs=0.08
    )
    assert np.mean([len(each) == 1 for each in labels]) == pytest.approx(0.5, abs=0.08)


def test_a_trials_job_is_the_file_with_its_values_and_without_a_search(job: config.Job) -> None:
    plain = config.load(None, ["name=s"])
    for trial in plan(job)[:20]:
        different = config.differences(plain, trial.job)
        found = {key: now for key, (_, now) in different.items()}
        expected = dict(trial.values) | {"data.labels": tuple(trial.values["data.labels"])}
        assert found == expected
        assert not trial.job.search


def test_the_same_seed_draws_the_same_and_more_trials_leave_the_first_as_they_are(job: config.Job) -> None:
    fewer = config.changed(job, {"tune.trials": 7})
    assert plan(fewer) == plan(job)[:7]
    other = config.changed(fewer, {"seed": 1})
    assert [trial.values for trial in plan(other)] != [trial.values for trial in plan(fewer)]


def test_whole_numbers_by_their_logarithm_reach_both_ends(job: config.Job) -> None:
    searched = config.changed(job, {"search": [{"key": "train.epochs", "low": 1, "high": 100, "log": True}]})
    drawn = [trial.values["train.epochs"] for trial in plan(searched)]
    assert {type(value) for value in drawn} == {int}
    assert (min(drawn), max(drawn) > 90, max(drawn) <= 100) == (1, True, True)
    assert np.median(drawn) == pytest.approx(math.sqrt(101), abs=3)


def test_every_choice_and_both_ends_are_tried_alone(job: config.Job) -> None:
    tried = [tuple(key for key in config.differences(config.Job(), each)) for each in edge_jobs(job)]
    assert [keys for keys in tried if len(keys) > 1] == []
    assert len(tried) == 8


def test_the_written_file_gives_the_same_search(job: config.Job, tmp_path: Path) -> None:
    (tmp_path / "again.toml").write_text(config.written(job))
    assert config.load(str(tmp_path / "again.toml")) == job
    assert config.sources(str(tmp_path / "again.toml"))["search"].endswith("again.toml")


def test_two_searches_are_compared_key_by_key(job: config.Job) -> None:
    other = config.changed(job, {"tune.trials": 3, "tune.at_once": 2, "search": [dict(job.search[2])], "tune.grace": 9})
    assert config.differences(job, other) == {
        "tune.grace": (3, 9),
        "search of train.learning_rate": ({"low": 1e-4, "high": 1e-2, "log": True}, None),
        "search of train.weight_decay": ({"low": 0, "high": 1}, None),
        "search of data.labels": ({"choose": (["COVID-19"], ["COVID-19", "Normal"])}, None),
    }


@pytest.mark.parametrize(
    ("search", "message"),
    [
        ([], r"the job has no \[\[search\]\]: say which keys"),
        ([{"key": "train.learning_rat", "low": 1, "high": 2}], "did you mean train.learning_rate?"),
        ([{"key": "train.epochs", "low": 5, "high": 5}], "train.epochs: low must be less than high, and 5 is not less"),
        ([{"key": "train.learning_rate", "low": 0, "high": 1, "log": True}], "log = true needs low above 0, got 0"),
        ([{"key": "train.epochs", "low": 5}], "train.epochs: give both low and high"),
        ([{"key": "train.epochs"}], r"train.epochs: give low and high \(and log = true\), or choose"),
        ([{"key": "train.loss", "choose": ["dice"], "low": 1, "high": 2}], "train.loss: give low and high"),
        ([{"key": "train.loss", "low": 1, "high": 2}], "train.loss takes no number"),
        ([{"key": "train.epochs", "high": 9, "lo": 1}], r"unknown key search.0.lo; did you mean search.low\?"),
        (
            [{"key": "train.epochs", "low": 0, "high": 9}],
            "train.epochs = 0 makes no job: key train.epochs: input should",
        ),
        ([{"key": "train.optimizer", "choose": ["adam", "sgd"]}], 'train.optimizer = "sgd" makes no job'),
        ([{"key": "workers", "choose": [1, 5]}], "workers = 5 makes no job: train.batch_size 32 cannot be shared"),
        ([{"key": "train.select", "choose": ["iou_all"]}], "train.select is the same for all trials"),
        ([{"key": "tune.grace", "low": 1, "high": 2}], "tune.grace is the same for all trials"),
        ([{"key": "seed", "choose": [1]}, {"key": "seed", "choose": [2]}], "seed is there 2 times"),
    ],
)
def test_a_search_that_cannot_be_is_refused(search: list[dict[str, object]], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        plan(config.changed(config.Job(), {"search": search}))


def test_values_that_only_together_make_no_job_are_refused() -> None:
    search = [{"key": "workers", "choose": [2, 3]}, {"key": "train.batch_size", "choose": [4, 6, 9]}]
    job = config.load(None, ["train.batch_size=6"])
    with pytest.raises(ConfigError, match=r"makes no job: train.batch_size \d cannot be shared evenly"):
        plan(config.changed(job, {"search": search}))


def test_the_shipped_job_file_can_be_planned() -> None:
    job = config.load(str(ROOT / "jobs/tune.toml"))
    trials = plan(job)
    assert len(trials) == 12
    assert {trial.values["train.loss"] for trial in trials} == {"focal+jaccard", "cross-entropy+jaccard"}

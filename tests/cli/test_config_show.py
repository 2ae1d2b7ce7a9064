from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from covseg_ray.cli.main import app
from covseg_ray.errors import ConfigError


@pytest.fixture
def job(tmp_path: Path) -> Path:
    path = tmp_path / "job.toml"
    path.write_text('workers = 2\n[train]\nepochs = 7\n[data]\ndataset = "s3://films/[a]set"\n', encoding="utf-8")
    return path


def show(*arguments: str) -> str:
    done = CliRunner().invoke(app, ["config", "show", *arguments], catch_exceptions=False)
    assert done.exit_code == 0
    return done.stdout


def test_every_value_says_where_it_came_from(job: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COVSEG_TRAIN__BATCH_SIZE", "64")
    document = json.loads(show("-c", str(job), "--set", "train.epochs=3", "--json"))
    assert document["job"]["train"]["epochs"] == 3
    assert document["job"]["train"]["batch_size"] == 64
    assert document["job"]["workers"] == 2
    origins = document["sources"]
    assert origins["train.epochs"] == "--set"
    assert origins["train.batch_size"] == "COVSEG_TRAIN__BATCH_SIZE"
    assert origins["workers"] == str(job)
    assert origins["seed"] == "default"


def test_the_table_holds_each_key_and_shows_values_as_written(job: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    lines = {line.split()[0]: line.split()[1:] for line in show("-c", str(job)).splitlines()}
    document = json.loads(show("-c", str(job), "--json"))
    assert lines.keys() - {"Key"} == document["sources"].keys()
    assert lines["data.dataset"][0] == '"s3://films/[a]set"'
    assert lines["train.learning_rate"] == ["0.001", "default"]


def test_without_a_job_file_the_published_recipe_is_shown() -> None:
    job = json.loads(show("--json"))["job"]
    assert (job["train"]["epochs"], job["train"]["batch_size"], job["train"]["learning_rate"]) == (50, 32, 0.001)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--set", "train.epoch=3"], "train.epochs"),
        (["-c", "absent.toml"], "absent.toml"),
        (["--set", "x"], "KEY=VALUE"),
    ],
)
def test_a_mistake_is_a_configuration_error(arguments: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        show(*arguments)

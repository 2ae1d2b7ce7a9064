"""The presets of the package, and the job files that begin from them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import get_args

import pytest
from places import ROOT

from covseg_ray.config import train as config
from covseg_ray.config.layers import PRESETS
from covseg_ray.errors import ConfigError
from covseg_ray.segmentation.network.build import check_names
from covseg_ray.segmentation.training.augment import AUGMENTATIONS
from covseg_ray.segmentation.training.losses import build_loss

JOBS = sorted((ROOT / "jobs").glob("*.toml"))
OF_JOBS = {  # each file of jobs/ begins from a preset, and gives the same job
    "train": "paper",
    "train-best": "best",
    "finish-best": "finish-best",
    "train-scratch": "scratch",
    "finish-scratch": "finish-scratch",
    "tune": "tune",
}


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("given", [*map(str, JOBS), *get_args(config.Preset)], ids=lambda given: Path(given).name)
def test_every_job_file_and_preset_names_what_there_is(given: str):
    job = config.load(given)
    check_names(job.model.architecture, job.model.encoder)


@pytest.mark.parametrize(("key", "build"), [("loss", build_loss), ("augment", AUGMENTATIONS.__getitem__)])
def test_every_name_that_a_job_takes_can_be_built(key: str, build: Callable[[str], object]):
    for name in get_args(config.Train.model_fields[key].annotation):
        build(name)
    with pytest.raises(ConfigError, match=f"key train.{key}: input should be .*, got"):
        config.load(None, [f"train.{key}=fokal"])


def test_every_preset_has_a_file():
    assert {path.stem for path in PRESETS.iterdir()} == set(get_args(config.Preset))


def test_every_job_file_gives_the_job_of_its_preset():
    assert {path.stem for path in JOBS} == OF_JOBS.keys()
    assert {path.stem: config.load(str(path)) for path in JOBS} == {
        name: config.load(preset) for name, preset in OF_JOBS.items()
    }


def test_the_published_recipe_is_the_default():
    assert config.load("paper") == config.load("paper", ["data.dataset="]) == config.Job()


def test_a_file_goes_before_the_preset_of_its_name(elsewhere: Path):
    assert config.load("best").train.epochs == 16
    (elsewhere / "best").write_text("train.epochs = 3\n")
    assert (config.load("best").preset, config.load("best").train.epochs) == ("paper", 3)


def test_a_preset_is_under_what_is_given(elsewhere: Path, monkeypatch: pytest.MonkeyPatch):
    (elsewhere / "job.toml").write_text('preset = "best"\ntrain.epochs = 3\n')
    monkeypatch.setenv("COVSEG_TRAIN__BATCH_SIZE", "8")
    job = config.load("job.toml", ["train.average=0.5"])
    best = config.load("best").train
    assert job.train == best.model_copy(update={"epochs": 3, "average": 0.5})
    assert (best.batch_size, best.augment) == (8, "mild")
    found = config.sources("job.toml", ["train.average=0.5"])
    assert [found[f"train.{key}"] for key in ("loss", "epochs", "batch_size", "average", "precision")] == [
        "preset best",
        "job.toml",
        "COVSEG_TRAIN__BATCH_SIZE",
        "--set",
        "default",
    ]
    assert config.load("job.toml", ["preset=scratch"]).model.encoder == "resnet34"


def test_an_unknown_preset_is_told_the_known_ones():
    with pytest.raises(ConfigError, match="bset does not exist; give a file, or one of the presets paper, best"):
        config.load("bset")
    with pytest.raises(ConfigError, match="key preset: input should be 'paper', 'best'"):
        config.load(None, ["preset=bset"])


@pytest.mark.parametrize("preset", get_args(config.Preset))
def test_a_written_job_is_read_to_the_same(preset: str, elsewhere: Path):
    for job in (config.load(preset), config.changed(config.load(preset), {"search": (), "train.epochs": 2})):
        (elsewhere / "written.toml").write_text(config.written(job))
        assert config.load("written.toml") == job


@pytest.mark.parametrize("recipe", ["best", "scratch"])
def test_the_last_part_of_a_recipe_has_the_network_of_the_first_and_starts_from_it(recipe: str):
    first, last = config.load(recipe), config.load(f"finish-{recipe}")
    assert first.model.start == ""
    start = f"{first.out}/{first.name}/bundle"
    assert last.model == first.model.model_copy(update={"start": start, "encoder_weights": "none"})

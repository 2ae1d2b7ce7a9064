"""The job files that are shipped."""

from __future__ import annotations

from pathlib import Path

import pytest
from places import ROOT

from covseg_ray.config import train as config
from covseg_ray.segmentation.network.build import check_names
from covseg_ray.segmentation.training.augment import augmentation
from covseg_ray.segmentation.training.losses import build_loss

JOBS = sorted((ROOT / "jobs").glob("*.toml"))


@pytest.mark.parametrize("path", JOBS, ids=lambda path: path.stem)
def test_every_job_file_names_what_there_is(path: Path):
    job = config.load(str(path))
    augmentation(job.train.augment)
    build_loss(job.train.loss)
    check_names(job.model.architecture, job.model.encoder)


def test_the_published_recipe_is_the_default():
    job = config.load(str(JOBS[0].with_name("train.toml")))
    assert job == config.Job()


@pytest.mark.parametrize("recipe", ["best", "scratch"])
def test_the_last_part_of_a_recipe_has_the_network_of_the_first_and_starts_from_it(recipe: str):
    first, last = (config.load(str(JOBS[0].with_name(f"{part}-{recipe}.toml"))) for part in ("train", "finish"))
    assert first.model.start == ""
    start = f"{first.out}/{first.name}/bundle"
    assert last.model == first.model.model_copy(update={"start": start, "encoder_weights": "none"})

"""The job files that are shipped."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest

from covseg_ray import config
from covseg_ray.segmentation.augment import augmentation
from covseg_ray.segmentation.losses import build_loss
from covseg_ray.segmentation.network import check_names

JOBS = sorted((Path(__file__).parents[1] / "jobs").glob("*.toml"))


@pytest.mark.parametrize("path", JOBS, ids=lambda path: path.stem)
def test_every_job_file_names_what_there_is(path: Path):
    job = config.load(str(path))
    augmentation(job.train.augment)
    build_loss(job.train.loss)
    check_names(job.model.architecture, job.model.encoder)


def test_the_published_recipe_is_the_default():
    job = config.load(str(JOBS[0].with_name("train.toml")))
    assert job == config.Job()


def test_the_parts_of_the_best_recipe_have_one_network_and_each_starts_from_the_one_before():
    parts = [config.load(str(JOBS[0].with_name(f"{name}-best.toml"))) for name in ("train", "finish")]
    assert parts[0].model.start == ""
    for before, after in pairwise(parts):
        assert after.model.start == f"{before.out}/{before.name}/bundle"
        assert after.model == before.model.model_copy(update={"start": after.model.start})

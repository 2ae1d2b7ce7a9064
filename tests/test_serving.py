"""How many replicas an endpoint may grow to on a machine of its own, and what of it each of them has."""

from __future__ import annotations

import pytest

from covseg_ray.engine.serve import gpu_share
from covseg_ray.serving import Serving


def served(models: int) -> Serving:
    return Serving(models={f"model{index}": "runs/paper/bundle" for index in range(models)})


@pytest.mark.parametrize(
    ("models", "cores", "gpus", "most", "each"),
    [
        (1, 1, 0, 2, 1),  # never fewer than the default's
        (1, 2, 0, 2, 1),
        (1, 4, 0, 4, 1),
        (1, 8, 0, 4, 2),
        (1, 16, 0, 4, 4),
        (1, 64, 0, 16, 4),
        (2, 16, 0, 4, 2),
        (3, 64, 0, 5, 4),
        (1, 64, 1, 1, 1),
        (1, 64, 8, 8, 1),
        (2, 64, 8, 4, 1),
        (3, 64, 2, 1, 1),
    ],
)
def test_replicas_fit_the_machine(models: int, cores: int, gpus: int, most: int, each: int) -> None:
    found = served(models).fitted(cores, gpus)
    assert (found.replicas, found.cores) == ((1, most), each)
    if cores >= 2 * models and not gpus:
        assert cores // 2 < most * each * models <= cores


def test_what_was_given_stands() -> None:
    given = Serving(models={"default": "runs/paper/bundle"}, cores=2)
    assert given.fitted(64, 8) is given
    given = Serving(models={"default": "runs/paper/bundle"}, replicas=(1, 2))
    assert given.fitted(64, 0) is given


@pytest.mark.parametrize(("models", "gpus"), [(1, 1), (1, 8), (2, 1), (3, 2), (5, 2), (8, 8)])
def test_every_model_has_a_replica_on_the_gpus_there_are(models: int, gpus: int) -> None:
    share = gpu_share(models, gpus)
    assert share <= 1
    assert gpus * int(1 / share + 1e-9) >= models
    assert share == 1 or gpus < models

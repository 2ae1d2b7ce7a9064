"""How many replicas an endpoint may grow to on a machine of its own, and what of a GPU each has."""

from __future__ import annotations

import pytest

from covseg_ray.config.serve import ServeConfig
from covseg_ray.engine.serving.app import gpu_share


def served(models: int) -> ServeConfig:
    return ServeConfig(models={f"model{index}": "runs/paper/bundle" for index in range(models)})


@pytest.mark.parametrize(
    ("models", "cores", "gpus", "most"),
    [
        (1, 1, 0, 2),  # never fewer than the default's
        (1, 2, 0, 2),
        (1, 16, 0, 16),
        (2, 16, 0, 8),
        (3, 64, 0, 21),
        (1, 64, 1, 1),
        (1, 64, 8, 8),
        (2, 64, 8, 4),
        (3, 64, 2, 1),
    ],
)
def test_replicas_fit_the_machine(models: int, cores: int, gpus: int, most: int) -> None:
    found = served(models).sized_for(cores, gpus)
    assert (found.replicas, found.cores) == ((1, most), 1)


def test_what_was_given_stands() -> None:
    given = ServeConfig(models={"default": "runs/paper/bundle"}, replicas=(1, 2))
    assert given.sized_for(64, 0) is given
    wide = ServeConfig(models={"default": "runs/paper/bundle"}, cores=4).sized_for(64, 0)
    assert (wide.replicas, wide.cores) == ((1, 16), 4)


def test_an_engine_of_cpus_has_no_use_for_gpus() -> None:
    for_cpus = ServeConfig(models={"default": "runs/paper/bundle"}, engine="openvino")
    assert for_cpus.sized_for(64, 8).replicas == (1, 64)


@pytest.mark.parametrize(("models", "gpus"), [(1, 1), (1, 8), (2, 1), (3, 2), (5, 2), (8, 8)])
def test_every_model_has_a_replica_on_the_gpus_there_are(models: int, gpus: int) -> None:
    share = gpu_share(models, gpus)
    assert share <= 1
    assert gpus * int(1 / share + 1e-9) >= models
    assert share == 1 or gpus < models

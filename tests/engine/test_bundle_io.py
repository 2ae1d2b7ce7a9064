"""Bundles by name: the models of the package."""

from __future__ import annotations

from pathlib import Path

import pytest

from covseg_ray.config import DEFAULT_MODEL
from covseg_ray.engine import bundle_io
from covseg_ray.engine.bundle_io import load_bundle, resolve, shipped_models
from covseg_ray.engine.cluster.jobs import package_files
from covseg_ray.errors import StorageError


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_name_is_that_of_a_model_of_the_package(elsewhere: Path) -> None:
    assert resolve(DEFAULT_MODEL) == str(shipped_models()[DEFAULT_MODEL])
    assert load_bundle(DEFAULT_MODEL).model_id == load_bundle(resolve(DEFAULT_MODEL)).model_id


def test_a_path_of_that_name_goes_first(elsewhere: Path) -> None:
    (elsewhere / DEFAULT_MODEL).mkdir()
    assert resolve(DEFAULT_MODEL) == DEFAULT_MODEL
    with pytest.raises(StorageError, match="covid-qu-ex: no bundle there"):
        load_bundle(DEFAULT_MODEL)


@pytest.mark.parametrize("uri", ["..", ".", "", "s3://bucket/covid-qu-ex", "models/covid-qu-ex", "COVID-QU-EX"])
def test_anything_else_is_a_uri(elsewhere: Path, uri: str) -> None:
    assert resolve(uri) == uri


def test_an_unknown_name_is_told_the_known_ones(elsewhere: Path) -> None:
    with pytest.raises(StorageError, match=r"covid-qu: no bundle there; .* by name: covid-qu-ex"):
        load_bundle("covid-qu")


def test_a_package_without_models_says_so(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle_io, "SHIPPED", elsewhere / "absent")
    with pytest.raises(StorageError, match="covid-qu-ex: no bundle there"):
        load_bundle(DEFAULT_MODEL)


def test_a_job_takes_the_models_along_that_it_names() -> None:
    without, with_it = package_files(()), package_files(("s3://bucket/bundle", DEFAULT_MODEL))
    model = {f"covseg_ray/models/{DEFAULT_MODEL}/{name}" for name in ("README.md", "model.json", "model.safetensors")}
    assert with_it.keys() - without.keys() == model
    assert {"covseg_ray/api.py", "covseg_ray/config/presets/paper.toml"} <= without.keys()
    assert sum(map(len, without.values())) < 2_000_000

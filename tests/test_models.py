"""The model that is shipped: what its card and README say of it is what it holds."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from places import ROOT

from covseg_ray.engine.bundle_io import load_bundle
from covseg_ray.radiograph.phantom import make_phantom
from covseg_ray.segmentation.inference.predictor import BatchPredictor

FOLDER = ROOT / "covseg_ray/models/covid-qu-ex"
MOST_BYTES = 50_000_000


@pytest.fixture(scope="module")
def spec() -> dict[str, object]:
    return json.loads((FOLDER / "model.json").read_text(encoding="utf-8"))


def test_it_is_small_enough_and_half_precision():
    assert (FOLDER / "model.safetensors").stat().st_size <= MOST_BYTES
    kinds = {tensor.dtype for tensor in load_bundle(str(FOLDER)).state.values() if tensor.ndim > 1}
    assert kinds == {torch.float16}


def test_it_loads_and_finds_the_lungs_of_films_unlike_any_it_saw(spec: dict[str, object]):
    bundle = load_bundle(str(FOLDER))
    assert bundle.model_id == spec["model_id"]
    assert bundle.spec.classes == ("background", "lung", "infection")
    phantoms = [make_phantom(1, index, 256) for index in range(4)]
    lungs = BatchPredictor(bundle).predict(np.stack([each.image for each in phantoms])) > 0
    for found, each in zip(lungs, phantoms, strict=True):
        assert (found & (each.lung > 0)).sum() > 0.8 * (found | (each.lung > 0)).sum()


def test_real_films_are_segmented_about_as_well_as_the_card_says(real_films: Path, spec: dict[str, object]):
    """The mean IoU of 40 films, by NumPy, within three of its standard errors of that of all."""
    folder = next(real_films.glob("*/Val/COVID-19"))
    names = sorted(path.name for path in (folder / "images").iterdir())[::12][:40]
    films, masks = (
        np.stack([np.asarray(Image.open(folder / kind / name)) for name in names])
        for kind in ("images", "infection masks")
    )
    found, truth = BatchPredictor(load_bundle(str(FOLDER))).predict(films) == 2, masks > 0
    ious = (found & truth).sum((1, 2)) / (found | truth).sum((1, 2))
    assert len(ious) > 30
    error = ious.std() / len(ious) ** 0.5
    assert abs(ious.mean() - spec["metrics"]["iou_image"]["value"]) < 3 * error


def test_the_card_tells_every_figure_as_it_is(spec: dict[str, object]):
    card = (FOLDER / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| ([\d.]+) \| ([\d.]+) to ([\d.]+) \|", card, flags=re.MULTILINE)
    figures = {name: tuple(map(float, numbers)) for name, *numbers in rows}
    metrics: dict[str, dict[str, float]] = spec["metrics"]
    assert figures == {
        name: tuple(round(found[end], 4) for end in ("value", "low", "high")) for name, found in metrics.items()
    }
    for needed in ("Intended use", "Licence", "Limits", "CC BY-SA 4.0", "10.1016/j.compbiomed.2021.105002"):
        assert needed in card
    assert str(spec["model_id"]) in card


def test_no_path_of_a_machine_is_in_it(spec: dict[str, object]):
    assert spec["trained_on"]["dataset"] == "covid-qu-ex"

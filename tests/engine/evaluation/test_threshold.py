"""A rule chosen on films, against the counts of every rule by hand, and the command that saves it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from covseg_ray.cli.main import app
from covseg_ray.engine.bundle_io import load_bundle
from covseg_ray.segmentation.inference.predictor import BatchPredictor
from covseg_ray.segmentation.network.decision import Rule
from covseg_ray.storage.datasets.read import list_units, read_unit

# Ray's start alone takes minutes on a machine that is busy.
pytestmark = [pytest.mark.usefixtures("ray_session"), pytest.mark.timeout(900)]


@pytest.mark.full
def test_the_command_saves_the_best_rule_and_its_metrics(ready_bundle: str, phantoms: str, tmp_path: Path) -> None:
    out = str(tmp_path / "decided")
    words = ["model", "decide", ready_bundle, phantoms, out, "--flip", "--half", "--json"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    decided, before = load_bundle(out), load_bundle(ready_bundle)
    rule = decided.spec.decision
    assert rule == Rule(threshold=report["threshold"], smallest_region=report["smallest_region"], flip=True)
    assert report["model_id"] == decided.model_id != before.model_id
    scores = iou_of_each_film(BatchPredictor(decided), phantoms)
    assert report["score"] == pytest.approx(scores.mean(), abs=1e-9)
    assert decided.spec.metrics["iou_all"].value == pytest.approx(scores.mean(), abs=1e-9)
    plain = iou_of_each_film(BatchPredictor(before.with_rule(Rule(threshold=127.5 / 255, flip=True))), phantoms)
    assert scores.mean() >= plain.mean() - 1e-3  # the even chance is among the rules that are tried
    assert report["expected"] <= report["score"]


def iou_of_each_film(predictor: BatchPredictor, dataset: str) -> np.ndarray:
    scores = []
    for unit in list_units(dataset, "val"):
        films = read_unit(dataset, unit)
        for found_HW, truth_HW in zip(predictor.predict(films.images_NHW) == 1, films.masks_NHW > 0, strict=True):
            either = (found_HW | truth_HW).sum()
            scores.append((found_HW & truth_HW).sum() / either if either else 1.0)
    return np.array(scores)

"""Expected IoU in an evaluation, beside sums with NumPy over the model's probabilities."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from typer.testing import CliRunner

from covseg_ray.cli.main import app
from covseg_ray.engine.bundle_io import load_bundle, save_bundle
from covseg_ray.engine.evaluation.run import measure, measured
from covseg_ray.segmentation.inference.predictor import BatchPredictor
from covseg_ray.segmentation.network.decision import Rule
from covseg_ray.storage.datasets.read import Subset, list_units, read_unit

pytestmark = [pytest.mark.usefixtures("ray_session"), pytest.mark.timeout(900)]


def by_hand(uri: str, dataset: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Agreement and true IoU of each film of split val, in the order of image ids."""
    predictor = BatchPredictor(load_bundle(uri))
    rows = {}
    for unit in list_units(dataset, "val"):
        films = read_unit(dataset, unit)
        classes_NHW, levels_NHW = predictor.predict_probabilities(films.images_NHW)
        for index, image_id in enumerate(films.image_ids):
            p_HW, found_HW, truth_HW = levels_NHW[index] / 255, classes_NHW[index] == 1, films.masks_NHW[index] == 1
            smooth = p_HW.size / 1000
            agreement = (p_HW[found_HW].sum() + smooth) / (found_HW.sum() + p_HW[~found_HW].sum() + smooth)
            union = (found_HW | truth_HW).sum()
            rows[image_id] = agreement, (found_HW & truth_HW).sum() / union if union else 1.0
    agreements, ious = np.array([rows[image_id] for image_id in sorted(rows)]).T
    return agreements, ious


def test_the_curve_is_fitted_on_the_measured_films_and_kept(ready_bundle: str, phantoms: str, tmp_path: Path) -> None:
    agreement_N, iou_N = by_hand(ready_bundle, phantoms)
    bundle = load_bundle(ready_bundle)
    found = measure(bundle, Subset(phantoms))
    np.testing.assert_allclose(found.agreement_N, agreement_N, rtol=1e-6)
    assert found.expected_iou is None
    with_curve = measured(bundle, found, "by hand")
    assert with_curve.model_id == bundle.model_id
    knots = np.array(with_curve.spec.expected_iou)
    assert len(knots) == 20  # one a film
    np.testing.assert_allclose(knots[:, 0], np.sort(agreement_N), rtol=1e-6)
    assert knots[:, 1].mean() == pytest.approx(iou_N.mean())
    save_bundle(str(tmp_path / "bundle"), with_curve)
    assert load_bundle(str(tmp_path / "bundle")).spec.expected_iou == with_curve.spec.expected_iou


def test_the_command_says_how_far_it_is_right(ready_bundle: str, phantoms: str, tmp_path: Path) -> None:
    agreement_N, iou_N = by_hand(ready_bundle, phantoms)
    bundle, model = load_bundle(ready_bundle), str(tmp_path / "model")
    curve = ((0.0, 0.0), (1.0, 0.5))
    save_bundle(model, type(bundle)(bundle.spec.model_copy(update={"expected_iou": curve}), bundle.state))
    page = tmp_path / "report.html"
    result = CliRunner().invoke(app, ["evaluate", model, phantoms, "--json", "--report", str(page)])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)["expected_iou"]
    order = np.argsort(agreement_N, kind="stable").reshape(5, 4)
    np.testing.assert_allclose(found["expected"], (agreement_N / 2)[order].mean(1), rtol=1e-6)
    np.testing.assert_allclose(found["true"], iou_N[order].mean(1), rtol=1e-6)
    assert -1 <= found["spearman"] <= 1
    assert "Expected and true IoU" in page.read_text()
    shown = CliRunner().invoke(app, ["evaluate", model, phantoms])
    assert f"rank correlation with the true IoU {found['spearman']:.2f}" in shown.output


def test_another_rule_has_no_curve_until_it_is_measured(ready_bundle: str) -> None:
    bundle = load_bundle(ready_bundle)
    spec = bundle.spec.model_copy(update={"expected_iou": ((0.0, 0.0), (1.0, 1.0))})
    assert type(bundle)(spec, bundle.state).with_rule(Rule(threshold=0.4)).spec.expected_iou == ()

"""What ``evaluate --stress`` prints, of values that are given."""

from __future__ import annotations

import pytest

from covseg_ray.cli.training.stress import show_stress, stress_document
from covseg_ray.engine.evaluation.stress import Changed, Measured, Stress
from covseg_ray.segmentation.estimate import Estimate
from covseg_ray.segmentation.evaluation.bootstrap import Difference

IOU, LOWER = Estimate(0.687, 0.65, 0.72), Estimate(0.661, 0.63, 0.7)
FOUND = Stress(
    Measured({"COVID-19": Estimate(0.995, 0.98, 1)}, {"iou_image": IOU}),
    {
        "jpeg-75": Changed(
            {"COVID-19": Estimate(0.99, 0.97, 1)},
            {"iou_image": LOWER},
            {"COVID-19": Difference(-0.005, -0.02, 0.01, 0.7)},
            {"iou_image": Difference(-0.026, -0.03, -0.02, 1.0)},
            Estimate(0.83, 0.79, 0.86),
        ),
        "marker": Changed({"COVID-19": Estimate(0.995, 0.98, 1)}, {}, {}, {}, None),
    },
)


def test_a_line_for_each_change(capsys: pytest.CaptureFixture[str]) -> None:
    only_jpeg = Stress(FOUND.as_is, {"jpeg-75": FOUND.changes["jpeg-75"]})
    show_stress(only_jpeg)
    lines = [line.split("  ") for line in capsys.readouterr().out.splitlines() if line.strip()]
    rows = [[cell.strip() for cell in line if cell.strip()] for line in lines]
    assert rows == [
        ["change", "COVID-19 marked", "iou_image", "iou_image change", "probe_auc"],
        ["as it is", "0.995", "0.687 (0.650 to 0.720)", "-", "-"],
        ["jpeg-75", "0.990", "0.661 (0.630 to 0.700)", "-0.026 (-0.030 to -0.020)", "0.830 (0.790 to 0.860)"],
        ["(marked: the share of films with any predicted infection pixel)"],
    ]


def test_a_metric_that_no_film_allows_after_a_change_is_a_dash(capsys: pytest.CaptureFixture[str]) -> None:
    show_stress(FOUND)
    (marker,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("marker"))
    assert marker.split() == ["marker", "0.995", "-", "-", "-"]


def test_the_document_has_values_differences_and_the_probe() -> None:
    document = stress_document(FOUND)
    assert document["as_is"] == {
        "marked": {"COVID-19": {"value": 0.995, "low": 0.98, "high": 1}},
        "metrics": {"iou_image": {"value": 0.687, "low": 0.65, "high": 0.72}},
    }
    jpeg, marker = document["changes"].values()
    assert jpeg["metrics"]["iou_image"] == {
        "value": 0.661, "low": 0.63, "high": 0.7,
        "difference": {"value": -0.026, "low": -0.03, "high": -0.02, "not_better": 1.0},
    }  # fmt: skip
    assert jpeg["marked"]["COVID-19"]["difference"]["value"] == -0.005
    assert jpeg["probe_auc"] == {"value": 0.83, "low": 0.79, "high": 0.86}
    assert (marker["metrics"], marker["probe_auc"]) == ({}, None)

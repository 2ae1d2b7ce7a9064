"""Measured values to draw pages of."""

from __future__ import annotations

from covseg_ray.reports.charts import ExpectedIouLine, FreeResponseView, ReliabilityLine
from covseg_ray.reports.page import Findings, StratumRow

LINES = [(0.03, 0.01), (0.5, 0.4), (0.97, 0.9)]


def view(*names: str) -> FreeResponseView:
    points = [(3.0, 0.9), (1.0, 0.6), (0.2, 0.3)]
    by_model, own = dict.fromkeys(names, points), dict.fromkeys(names, (1.1, 0.62))
    axis = "False regions per infection-free film"
    return FreeResponseView(by_model, own, axis, "61.5% of 13 lesions found", "a rule")


def findings(*names: str) -> Findings:
    return Findings(
        strata=[
            StratumRow("COVID-19", 1466, {"iou_image": (0.641, 0.62, 0.66), "lung_iou": (0.93, 0.92, 0.94)}),
            StratumRow("Normal", 233, {"false_alarm": (0.107, 0.07, 0.15)}),
        ],
        reliability=[ReliabilityLine(name, LINES, expected_error=0.0312, brier=0.0211) for name in names],
        free_response=view(*names),
        expected_iou=[ExpectedIouLine(name, LINES, "rank correlation with the true IoU 0.71") for name in names],
    )

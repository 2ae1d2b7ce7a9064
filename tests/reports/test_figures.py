from __future__ import annotations

import io
import math
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from covseg_ray.reports import charts, figures

HISTORY = [
    {"epoch": 1, "loss": 0.9, "val_loss": 1.0, "iou_two_class": 0.4},
    {"epoch": 2, "loss": 0.5, "val_loss": math.nan, "iou_two_class": 0.7},
    {"epoch": 3, "loss": 0.4, "val_loss": 0.6, "iou_two_class": 0.6},
]


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGBA"))


def share_of(png: bytes, colour: str) -> float:
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    picture_HW4 = pixels(png)
    return float(
        (np.abs(picture_HW4[..., :3].astype(int) - (red, green, blue)).max(-1) < 8)[picture_HW4[..., 3] > 200].mean()
    )


def test_series_leaves_out_what_was_not_recorded() -> None:
    lines = figures.series(HISTORY, {"loss": "training", "val_loss": "validation", "absent": "nothing"})
    assert lines == {"training": [(1, 0.9), (2, 0.5), (3, 0.4)], "validation": [(1, 1.0), (3, 0.6)]}


@pytest.mark.parametrize("theme", [figures.LIGHT, figures.DARK])
def test_a_chart_is_a_transparent_png_in_its_themes_colours(theme: figures.Theme) -> None:
    lines = figures.series(HISTORY, {"loss": "training"})
    png = figures.curves(lines, ylabel="Loss", best_epoch=2, theme=theme)
    width, height = (round(side * figures.DOTS_PER_INCH) for side in figures.SIZE_INCHES)
    assert pixels(png).shape == (height, width, 4)
    assert pixels(png)[0, 0, 3] == 0
    assert share_of(png, theme.lines[0]) > 0.01
    assert share_of(png, theme.lines[1]) == 0


def test_the_best_epoch_changes_the_picture() -> None:
    lines = figures.series(HISTORY, {"loss": "training"})
    first, second = (figures.curves(lines, ylabel="Loss", best_epoch=best, theme=figures.LIGHT) for best in (1, 2))
    assert (pixels(first) != pixels(second)).any()


def test_histogram_bars_are_as_high_as_numpy_counts() -> None:
    values = [0.02] * 4 + [0.52] * 3 + [0.97]  # the median falls between the bars
    bars = pixels(figures.histogram(values, "IoU", theme=figures.LIGHT))
    blue_HW = (np.abs(bars[..., :3].astype(int) - (0x00, 0x72, 0xB2)).max(-1) < 8) & (bars[..., 3] > 200)
    heights = np.array([run.any(axis=1).sum() for run in np.split(blue_HW, _gaps(blue_HW), axis=1) if run.any()], float)
    assert heights / heights[-1] == pytest.approx([4, 3, 1], rel=0.05)


def _gaps(blue_HW: np.ndarray) -> list[int]:
    filled = blue_HW.any(axis=0)
    return [i for i in range(1, len(filled)) if filled[i] and not filled[i - 1]]


def test_best_epoch_has_the_highest_score() -> None:
    assert charts.best_epoch(HISTORY, "iou_two_class") == 2
    equals = [{"epoch": epoch, "iou_two_class": score} for epoch, score in ((1, 0.7), (2, 0.7), (3, 0.6))]
    assert charts.best_epoch(equals, "iou_two_class") == 2  # the checkpoint that Ray keeps


def test_alternative_texts_tell_the_numbers() -> None:
    loss, iou = charts.training_charts(HISTORY, "iou_two_class")
    assert "training from 0.900 to 0.400" in loss.alternative
    assert "two classes from 0.400 to 0.600" in iou.alternative
    assert "median 0.30" in charts.iou_histogram([0.1, 0.3, 0.8]).alternative


def drawn_at(png: bytes, colour: str) -> np.ndarray:
    """Rows and columns of the pixels of a colour, as shares of the picture's height and width."""
    picture_HW4 = pixels(png)
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    near_HW = np.abs(picture_HW4[..., :3].astype(int) - (red, green, blue)).max(-1) < 8
    return np.argwhere(near_HW & (picture_HW4[..., 3] > 200)) / picture_HW4.shape[:2]


def test_a_model_that_is_too_sure_lies_below_the_calibrated_one() -> None:
    colour = figures.LIGHT.lines[0]
    sure, right = ({"model": [(0.1, at * 0.1), (0.9, at * 0.9)]} for at in (0.5, 1.0))
    low, high = (
        drawn_at(figures.reliability(line, ("x", "y"), theme=figures.LIGHT), colour)[:, 0].mean()
        for line in (sure, right)
    )
    assert low > high + 0.05  # rows count from the top


def test_the_star_of_the_own_rule_is_drawn_where_it_is() -> None:
    points = {"model": [(4.0, 0.9), (2.0, 0.6)]}
    stars = [
        figures.free_response(points, {"model": own}, axis="False regions", theme=figures.LIGHT)
        for own in ((1.0, 0.2), (3.5, 0.2))
    ]
    colour = figures.LIGHT.lines[0]
    columns = [drawn_at(png, colour) for png in stars]
    below = [found[(found[:, 0] > 0.6) & (found[:, 0] < 0.8) & (found[:, 1] < 0.6)] for found in columns]
    assert len(below[0]) > 100
    assert len(below[1]) == 0


@pytest.mark.parametrize("theme", [figures.LIGHT, figures.DARK])
def test_two_models_have_two_colours(theme: figures.Theme) -> None:
    lines = {"A": [(0.1, 0.2), (0.9, 0.5)], "B": [(0.1, 0.1), (0.9, 0.9)]}
    for png in (
        figures.reliability(lines, ("x", "y"), theme=theme),
        figures.free_response(lines, {"A": (0.2, 0.3), "B": (0.3, 0.4)}, axis="x", theme=theme),
    ):
        assert min(share_of(png, colour) for colour in theme.lines[:2]) > 0.003


def test_charts_need_no_pyplot() -> None:
    code = (
        "import sys; from covseg_ray.reports import figures;"
        "figures.histogram([0.5], 'IoU', theme=figures.LIGHT); sys.exit('matplotlib.pyplot' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

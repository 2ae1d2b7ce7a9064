"""The charts of a report, each drawn for light and dark pages, with its alternative text."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from covseg_ray.reports import figures
from covseg_ray.reports.pictures import data_uri
from covseg_ray.reports.trial_result import TrialResult, format_value

LOSSES = {"loss": "training", "val_loss": "validation"}
OVERLAPS = {
    "iou_two_class": "validation, two classes",
    "iou_pooled": "validation, pooled",
    "train_iou_pooled": "training, pooled",
}


@dataclass(frozen=True)
class Chart:
    """Two pictures as data URIs, ``width`` and ``height`` in pixels."""

    light: str
    dark: str
    alternative: str
    caption: str
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class ReliabilityLine:
    """``points`` are mean probability and infected share of the pixels of a bin, 0 to 1, from low to high."""

    name: str
    points: Sequence[tuple[float, float]]
    expected_error: float
    brier: float


@dataclass(frozen=True, slots=True)
class ExpectedIouLine:
    """``points`` are the mean expected and the mean true IoU of parts of the films, 0 to 1; ``words`` sum them up."""

    name: str
    points: Sequence[tuple[float, float]]
    words: str


@dataclass(frozen=True, slots=True)
class FreeResponseView:
    """By model, ``points`` are false regions (a film of the kind that ``axis`` names) and the share of lesions found,
    one a threshold; ``own`` is the point of the model's own rule, and ``summary`` says the same in words."""

    points: Mapping[str, Sequence[tuple[float, float]]]
    own: Mapping[str, tuple[float, float]]
    axis: str
    summary: str
    rule: str


def best_epoch(history: Sequence[Mapping[str, float]], select: str) -> int:
    """The epoch at which ``select`` is highest; of equals the last, whose checkpoint is the bundle."""
    return int(max(reversed(history), key=lambda row: row[select])["epoch"])


def training_charts(history: Sequence[Mapping[str, float]], select: str) -> list[Chart]:
    """Loss and IoU over epochs; a chart without a single point is left out."""
    best = best_epoch(history, select)
    drawn = {"Loss": figures.series(history, LOSSES), "IoU": figures.series(history, OVERLAPS)}
    caption = f"over epochs; the best epoch by {select} is marked"
    return [_curves(lines, what, best, f"{what} {caption}") for what, lines in drawn.items() if lines]


def iou_histogram(ious: Sequence[float]) -> Chart:
    """The histogram of ``ious`` (0..1, at least one)."""
    low, median, high = np.quantile(ious, (0.1, 0.5, 0.9))
    words = f"{len(ious)} films with infection; median {median:.2f}, 80 % of them between {low:.2f} and {high:.2f}"
    return _both(
        lambda theme: figures.histogram(ious, "IoU of one film", theme=theme), f"Histogram of IoU: {words}", words
    )


def reliability(lines: Sequence[ReliabilityLine]) -> Chart:
    """The reliability diagram of ``lines``, at least one."""
    scores = "; ".join(
        f"{line.name}: expected calibration error {line.expected_error:.4f}, Brier score {line.brier:.4f}"
        for line in lines
    )
    points = {line.name: line.points for line in lines}
    axes = ("Predicted probability", "Infected share")
    return _both(lambda theme: figures.reliability(points, axes, theme=theme), f"Reliability diagram. {scores}", scores)


def expected_iou(lines: Sequence[ExpectedIouLine]) -> Chart:
    """True over expected IoU by fifths of the films, for one line or more."""
    words = "; ".join(f"{line.name}: {line.words}" for line in lines)
    points = {line.name: line.points for line in lines}
    axes = ("Expected IoU", "True IoU")
    return _both(lambda theme: figures.reliability(points, axes, theme=theme), f"Expected and true IoU. {words}", words)


def free_response(view: FreeResponseView) -> Chart:
    """Lesions found against false regions."""
    return _both(
        lambda theme: figures.free_response(view.points, view.own, axis=view.axis, theme=theme),
        f"Lesions found over false regions. {view.summary}",
        view.summary,
    )


def marked_shares(shares_N: NDArray[np.float64]) -> Chart:
    """The histogram of ``shares_N``, the infected share of each film with infection (above 0 to 1, at least one)."""
    low, median, high = np.quantile(shares_N, (0.1, 0.5, 0.9))
    films = "1 film" if len(shares_N) == 1 else f"{len(shares_N):,} films"
    middle = f"median {percent(median)}, 80 % of them between {percent(low)} and {percent(high)}"
    words = f"{films} with infection found; {middle}"
    return _both(
        lambda theme: figures.histogram(shares_N, "Infected share of one film", theme=theme, percent=True),
        f"Histogram of the infected share: {words}",
        words,
    )


def percent(share: float) -> str:
    """A share of 0..1 in percent with one decimal; only exactly 0 and 1 are shown as 0.0% and 100.0%."""
    text = f"{share:.1%}"
    if text == "0.0%" and share > 0:
        return "under 0.1%"
    return "over 99.9%" if text == "100.0%" and share < 1 else text


def _curves(lines: figures.Series, what: str, best: int, caption: str) -> Chart:
    ends = "; ".join(f"{text} from {line[0][1]:.3f} to {line[-1][1]:.3f}" for text, line in lines.items())
    return _both(
        lambda theme: figures.curves(lines, ylabel=what, best_epoch=best, theme=theme, unit_range=what == "IoU"),
        f"{what} over epochs: {ends}",
        caption,
    )


def _both(draw: Callable[[figures.Theme], bytes], alternative: str, caption: str) -> Chart:
    light, dark = draw(figures.LIGHT), draw(figures.DARK)
    width, height = figures.size(light)
    return Chart(data_uri(light), data_uri(dark), alternative, caption, width, height)


def changes(names: Sequence[str], panels: Mapping[str, Sequence[figures.Interval]]) -> Chart:
    """A panel for each metric: its value after each change; the first of ``names`` is the films as they are."""
    words = "; ".join(
        f"{title} {values[0][0]:.3f} {names[0]}, {min(value for value, _, _ in values[1:]):.3f} to "
        f"{max(value for value, _, _ in values[1:]):.3f} after a change"
        for title, values in panels.items()
    )
    return _both(
        lambda theme: figures.interval_panels(names, panels, theme=theme),
        f"Metrics after each change, with 95 % intervals. {words}",
        f"{words}. Bars: 95 % intervals; dashed: {names[0]}",
    )


def trials_over_epochs(results: Sequence[TrialResult], best: TrialResult, select: str) -> Chart:
    """The learning curves of ``results``, each of which has an epoch; ``best`` is one of them."""
    lines = [[(record["epoch"], record[select]) for record in result.history] for result in results]
    ends = "; ".join(f"trial {result.number} {result.score(select):.3f}" for result in results)
    return _both(
        lambda theme: figures.learning_curves(lines, results.index(best), ylabel=select, theme=theme),
        f"{select} over epochs, a line for each trial. The best of each: {ends}",
        f"{select} over epochs, a line for each trial; a shorter line is a trial that was stopped",
    )


def trials_over_key(results: Sequence[TrialResult], best: TrialResult, select: str, key: str) -> Chart:
    """The best score of each of ``results`` over its value of ``key``; by the logarithm where they differ tenfold."""
    values = [result.values[key] for result in results]
    numbers = all(type(value) in (int, float) for value in values)
    log = numbers and 0 < 10 * min(values) <= max(values)
    points = [
        (result.values[key] if numbers else format_value(result.values[key]), result.score(select))
        for result in results
    ]
    mark, points = points[results.index(best)], sorted(points)
    return _both(
        lambda theme: figures.scores_over_values(points, mark, axis=key, ylabel=select, log=log, theme=theme),
        f"{select} over {key}: " + "; ".join(f"{format_value(value)} {score:.3f}" for value, score in points),
        f"Best {select} of each trial over {key}",
    )

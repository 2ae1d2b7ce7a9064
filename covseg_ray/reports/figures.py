"""Charts as PNG bytes, drawn through matplotlib's objects: no pyplot, no global state, no display.

Every chart is drawn for a light or a dark page on a transparent ground. The first colours are Okabe and Ito's, which
are distinguishable with colour vision deficiency; lines differ in dash as well.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:  # a second of a command's start: loaded by the first chart
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SIZE_INCHES = (6.0, 3.7)
PANELS_WIDTH_INCHES, ROW_INCHES = 8.4, 0.22
DOTS_PER_INCH = 150
DASHES = ("-", "--", "-.", ":")
BARS = 20
PERCENT_AXES = (0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0)  # where an axis of shares may end, for bars of round width


@dataclass(frozen=True)
class Theme:
    ink: str
    faint: str
    lines: tuple[str, ...]


LIGHT = Theme(ink="#1d2733", faint="#c9d2dc", lines=("#0072B2", "#D55E00", "#009E73", "#AA4499"))
DARK = Theme(ink="#e4eaf1", faint="#44505e", lines=("#56B4E9", "#E69F00", "#2fc79a", "#DD88CC"))

Interval = tuple[float, float, float]  # a value, and the low and high end of its 95 % interval
Series = Mapping[str, Sequence[tuple[float, float]]]


def series(history: Sequence[Mapping[str, float]], names: Mapping[str, str]) -> dict[str, list[tuple[float, float]]]:
    """(epoch, value) points by legend text, for the keys of ``names`` that the history holds; a NaN is left out."""
    points = {
        text: [(row["epoch"], row[key]) for row in history if key in row and np.isfinite(row[key])]
        for key, text in names.items()
    }
    return {text: line for text, line in points.items() if line}


def curves(lines: Series, *, ylabel: str, best_epoch: int, theme: Theme, unit_range: bool = False) -> bytes:
    """Lines over epochs, the best epoch marked; ``unit_range`` keeps the vertical axis within 0 and 1."""
    from matplotlib.ticker import MaxNLocator

    figure, axes = _chart("Epoch", ylabel, theme)
    _plot(axes, lines, theme)
    axes.axvline(best_epoch, color=theme.ink, linewidth=1, linestyle=(0, (2, 3)), label=f"best epoch ({best_epoch})")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylim(0, 1 if unit_range else None)
    return _png(figure, theme)


def reliability(lines: Series, labels: tuple[str, str], *, theme: Theme) -> bytes:
    """What is true over what was predicted, 0..1 both, beside the diagonal on which a calibrated model lies."""
    figure, axes = _chart(*labels, theme)
    axes.plot((0, 1), (0, 1), color=theme.ink, linewidth=1, linestyle=(0, (2, 3)), label="calibrated")
    _plot(axes, lines, theme)
    axes.set(xlim=(0, 1), ylim=(0, 1))
    return _png(figure, theme)


def free_response(lines: Series, own: Mapping[str, tuple[float, float]], *, axis: str, theme: Theme) -> bytes:
    """Share of lesions found, 0..1, over false regions; ``own`` marks a point of each line."""
    from matplotlib.ticker import PercentFormatter

    figure, axes = _chart(axis, "Lesions found", theme)
    _plot(axes, lines, theme)
    for index, text in enumerate(lines):
        colour = theme.lines[index % len(theme.lines)]
        axes.plot(*own[text], "*", color=colour, markeredgecolor=theme.ink, markersize=16, label=f"{text}: own rule")
    axes.set_ylim(0, 1.02)
    axes.set_xlim(left=0)
    axes.yaxis.set_major_formatter(PercentFormatter(xmax=1))
    return _png(figure, theme, "lower right")


def histogram(
    values: Sequence[float] | NDArray[np.float64], xlabel: str, *, theme: Theme, percent: bool = False
) -> bytes:
    """Histogram of films by ``values`` in 0..1, at least one, in 20 bins, with the median marked.

    With ``percent`` the axis is in percent and ends at the first of ``PERCENT_AXES`` that holds every value.
    """
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    figure, axes = _chart(xlabel, "Films", theme)
    median = float(np.median(values))
    most = next(end for end in PERCENT_AXES if end >= np.max(values)) if percent else 1
    edges = np.linspace(0, most, BARS + 1).tolist()
    axes.hist(values, bins=edges, color=theme.lines[0], edgecolor=theme.faint, linewidth=0.6)
    label = f"median {median:.1%}" if percent else f"median {median:.2f}"
    axes.axvline(median, color=theme.lines[1], linewidth=2, linestyle="--", label=label)
    axes.set_xlim(0, most)
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.yaxis.set_major_formatter("{x:,.0f}")
    if percent:
        axes.xaxis.set_major_formatter(PercentFormatter(xmax=1))
    return _png(figure, theme)


def interval_panels(names: Sequence[str], panels: Mapping[str, Sequence[Interval]], *, theme: Theme) -> bytes:
    """A panel for each title, side by side: a value of 0..1 with its interval for each of ``names``, from top to
    bottom. A dashed line goes down from the first value."""
    figure = _figure((PANELS_WIDTH_INCHES, ROW_INCHES * (len(names) + 3)))
    for axes, (title, values), colour in zip(
        figure.subplots(1, len(panels), sharey=True, squeeze=False)[0], panels.items(), theme.lines, strict=False
    ):
        _style(axes, title, "", theme)
        value, low, high = np.array(values).T
        rows = np.arange(len(names))
        axes.axvline(value[0], color=theme.ink, linewidth=1, linestyle=(0, (2, 3)))
        axes.hlines(rows, low, high, color=colour, linewidth=4, alpha=0.45)
        axes.plot(value, rows, "o", color=colour, markersize=5)
        axes.set(xlim=(-0.02, 1.02), ylim=(len(names) - 0.5, -0.5))
        axes.set_yticks(rows, names)
    return _bytes(figure)


def _plot(axes: Axes, lines: Series, theme: Theme) -> None:
    for index, (text, line) in enumerate(lines.items()):
        across, up = zip(*line, strict=True)
        marker = "o" if len(line) < 25 else ""
        colour, dash = theme.lines[index % len(theme.lines)], DASHES[index % len(DASHES)]
        axes.plot(across, up, dash, color=colour, marker=marker, markersize=4, linewidth=2, label=text)


def _chart(xlabel: str, ylabel: str, theme: Theme) -> tuple[Figure, Axes]:
    figure = _figure(SIZE_INCHES)
    axes = figure.add_subplot()
    _style(axes, xlabel, ylabel, theme)
    return figure, axes


def _figure(inches: tuple[float, float]) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=inches, dpi=DOTS_PER_INCH, layout="constrained")
    FigureCanvasAgg(figure)
    figure.patch.set_alpha(0)
    return figure


def _style(axes: Axes, xlabel: str, ylabel: str, theme: Theme) -> None:
    axes.patch.set_alpha(0)
    axes.set_xlabel(xlabel, color=theme.ink, fontsize=11)
    axes.set_ylabel(ylabel, color=theme.ink, fontsize=11)
    axes.tick_params(colors=theme.ink, labelsize=10, length=3)
    axes.grid(axis="y", color=theme.faint, linewidth=0.6, alpha=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(theme.faint)


def _png(figure: Figure, theme: Theme, legend_at: Literal["best", "lower right"] = "best") -> bytes:
    figure.axes[0].legend(frameon=False, labelcolor=theme.ink, fontsize=10, loc=legend_at)
    return _bytes(figure)


def _bytes(figure: Figure) -> bytes:
    out = io.BytesIO()
    figure.savefig(out, format="png", metadata={"Software": None})
    return out.getvalue()


def size(png: bytes) -> tuple[int, int]:
    """Width and height of a chart in pixels: they stand at a fixed place of a PNG's header."""
    return int.from_bytes(png[16:20], "big"), int.from_bytes(png[20:24], "big")


def learning_curves(lines: Sequence[Sequence[tuple[float, float]]], best: int, *, ylabel: str, theme: Theme) -> bytes:
    """A line over epochs for each trial, that of index ``best`` highlighted."""
    from matplotlib.ticker import MaxNLocator

    figure, axes = _chart("Epoch", ylabel, theme)
    for line in lines:
        axes.plot(*zip(*line, strict=True), "o-", color=theme.lines[0], alpha=0.5, linewidth=1.2, markersize=3)
    axes.plot(*zip(*lines[best], strict=True), "o-", color=theme.lines[1], linewidth=2.5, label="best trial")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return _png(figure, theme)


def scores_over_values(
    points: Sequence[tuple[float | str, float]],
    best: tuple[float | str, float],
    *,
    axis: str,
    ylabel: str,
    log: bool,
    theme: Theme,
) -> bytes:
    """A dot for each trial, ``best`` marked: its score over its value of one key."""
    figure, axes = _chart(axis, ylabel, theme)
    axes.plot(*zip(*points, strict=True), "o", color=theme.lines[0], markersize=8, alpha=0.7)
    axes.plot([best[0]], [best[1]], "*", color=theme.lines[1], markeredgecolor=theme.ink, markersize=17, label="best")
    if log:
        axes.set_xscale("log")
    axes.margins(x=0.15)
    return _png(figure, theme)

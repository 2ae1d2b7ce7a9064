"""The section of a report about changed films: a chart, the metrics after each change, and their differences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from covseg_ray.reports import charts
from covseg_ray.reports.figures import Interval
from covseg_ray.reports.metric_words import words_for

IN_CHART = ("false_alarm", "iou_image")
PROBE = "Probe AUC"


@dataclass(frozen=True, slots=True)
class StressRow:
    """Films after the change ``name``: ``marked``, the share of films with any predicted infection pixel by label, and
    metrics by name. Differences are to the films as they are, whose own row has none."""

    name: str
    marked: Mapping[str, Interval]
    metrics: Mapping[str, Interval]
    marked_differences: Mapping[str, Interval] = field(default_factory=dict)
    differences: Mapping[str, Interval] = field(default_factory=dict)
    probe_auc: Interval | None = None


def stress_shown(rows: Sequence[StressRow]) -> dict[str, object]:
    """What ``stress.html.j2`` takes; the first of ``rows``, at least two, is the films as they are."""
    drawn = {words_for(name).title: [row.metrics[name] for row in rows] for name in IN_CHART if name in rows[0].metrics}
    return {
        "chart": charts.changes([row.name for row in rows], drawn) if drawn else None,
        "columns": list(_cells(rows[0].marked, rows[0].metrics)),
        "rows": [(row.name, _cells(row.marked, row.metrics) | {PROBE: row.probe_auc}) for row in rows],
        "differences": [(row.name, _cells(row.marked_differences, row.differences)) for row in rows[1:]],
        "probe": PROBE if any(row.probe_auc for row in rows) else None,
    }


def _cells(marked: Mapping[str, Interval], metrics: Mapping[str, Interval]) -> dict[str, Interval | None]:
    shares = {f"{label} marked": each for label, each in marked.items()}
    return {**shares, **{words_for(name).title: each for name, each in metrics.items()}}

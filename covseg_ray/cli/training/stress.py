"""What ``evaluate --stress`` prints."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from covseg_ray.cli.tables import show, table

if TYPE_CHECKING:
    from covseg_ray.engine.evaluation.stress import Changed, Measured, Stress
    from covseg_ray.segmentation.estimate import Estimate
    from covseg_ray.segmentation.evaluation.bootstrap import Difference


def stress_document(found: Stress) -> dict[str, Any]:
    """The value of ``stress`` in the ``--json`` document."""
    return {
        "as_is": _document(found.as_is.marked, found.as_is.metrics),
        "changes": {name: _changed_document(each) for name, each in found.changes.items()},
    }


def show_stress(found: Stress) -> None:
    """Print a line for each change."""
    labels, metrics = list(found.as_is.marked), list(found.as_is.metrics)
    rows = [["as it is", *_cells(found.as_is, labels, metrics), "-", "-"]]
    rows += [
        [name, *_cells(each, labels, metrics), _difference(each), _value(each.probe_auc)]
        for name, each in found.changes.items()
    ]
    columns = ["change", *(f"{label} marked" for label in labels), *metrics, "iou_image change", "probe_auc"]
    show("", table(columns, rows), "(marked: the share of films with any predicted infection pixel)")


def _document(marked: Mapping[str, Any], metrics: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "marked": {label: asdict(each) for label, each in marked.items()},
        "metrics": {name: asdict(each) for name, each in metrics.items()},
    }


def _changed_document(found: Changed) -> dict[str, Any]:
    document = _document(found.marked, found.metrics)
    for part, differences in (("marked", found.marked_differences), ("metrics", found.differences)):
        for name, each in differences.items():
            document[part][name]["difference"] = asdict(each)
    return document | {"probe_auc": asdict(found.probe_auc) if found.probe_auc else None}


def _cells(found: Measured, labels: list[str], metrics: list[str]) -> list[str]:
    marked = [f"{found.marked[label].value:.3f}" for label in labels]
    return [*marked, *(_value(found.metrics.get(name)) for name in metrics)]


def _value(found: Estimate | None) -> str:
    return f"{found.value:.3f} ({found.low:.3f} to {found.high:.3f})" if found else "-"


def _difference(found: Changed) -> str:
    each: Difference | None = found.differences.get("iou_image")
    return f"{each.value:+.3f} ({each.low:+.3f} to {each.high:+.3f})" if each else "-"

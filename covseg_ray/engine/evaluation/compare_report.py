"""A comparison as a page: its numbers in the words of the reports."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from covseg_ray.engine.evaluation.compare import Comparison
from covseg_ray.engine.evaluation.report import (
    films_facts,
    findings,
    intervals,
    model_words,
    stratum_words,
    trained_words,
)
from covseg_ray.reports.compare_page import ComparedMetric, compare_report
from covseg_ray.reports.measured import StratumRow
from covseg_ray.segmentation.evaluation.bootstrap import Difference
from covseg_ray.segmentation.network.bundle import Bundle


def compare_page(
    first: Bundle, second: Bundle, dataset: str, split: str, labels: Sequence[str] | None, found: Comparison
) -> str:
    """The report of two models on the same films, as HTML."""
    return compare_report(
        title=f"Two models on {split}",
        facts=_facts(first, second, dataset, split, labels, found),
        metrics=_metrics(found),
        strata=[
            StratumRow(stratum_words(group, name), each.images, _intervals(each.differences))
            for group, of in found.strata.items()
            for name, each in of.items()
        ],
        findings=findings({"A": found.first, "B": found.second}),
        films=found.changed,
    )


def _metrics(found: Comparison) -> list[ComparedMetric]:
    first, second = intervals(found.first.metrics), intervals(found.second.metrics)
    changes = _intervals(found.differences)
    return [
        ComparedMetric(name, first[name], second[name], changes[name], each.not_better)
        for name, each in found.differences.items()
    ]


def _intervals(differences: Mapping[str, Difference]) -> dict[str, tuple[float, float, float]]:
    return {name: (each.value, each.low, each.high) for name, each in differences.items()}


def _facts(
    first: Bundle, second: Bundle, dataset: str, split: str, labels: Sequence[str] | None, found: Comparison
) -> dict[str, str]:
    models = {"A": first, "B": second}
    told = {name: model_words(bundle) for name, bundle in models.items()}
    told |= films_facts(dataset, split, labels, found.first, found.notes)
    return told | {f"{name} trained on": trained_words(bundle) for name, bundle in models.items()}

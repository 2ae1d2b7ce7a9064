"""A comparison as a report page."""

from __future__ import annotations

from covseg_ray.engine.evaluation.compare import Comparison, ComparisonRequest
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


def compare_page(request: ComparisonRequest, found: Comparison) -> str:
    """The report of two models on the same films, as HTML."""
    models = {"A": request.first, "B": request.second}
    facts = {name: model_words(bundle) for name, bundle in models.items()}
    facts |= films_facts(request.films, found.first, found.notes)
    facts |= {f"{name} trained on": trained_words(bundle) for name, bundle in models.items()}
    first, second = intervals(found.first.metrics), intervals(found.second.metrics)
    changes = intervals(found.differences)
    return compare_report(
        title=f"Two models on {request.films.split}",
        facts=facts,
        metrics=[
            ComparedMetric(name, first[name], second[name], changes[name], each.not_better)
            for name, each in found.differences.items()
        ],
        strata=[
            StratumRow(stratum_words(group, name), each.images, intervals(each.differences))
            for group, of in found.strata.items()
            for name, each in of.items()
        ],
        findings=findings({"A": found.first, "B": found.second}),
        films=found.changed,
    )

"""An evaluation, or a comparison of two models, as a report page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from covseg_ray.engine.evaluation.compare import Comparison
from covseg_ray.engine.evaluation.run import ALL, Evaluation
from covseg_ray.engine.evaluation.stress import Stress
from covseg_ray.reports.charts import ExpectedIouLine, FreeResponseView, ReliabilityLine
from covseg_ray.reports.compare_page import ComparedMetric, compare_report
from covseg_ray.reports.figures import Interval
from covseg_ray.reports.page import Findings, StratumRow, model_report
from covseg_ray.reports.stress import StressRow
from covseg_ray.segmentation.estimate import Estimate
from covseg_ray.segmentation.evaluation.calibration import Calibration
from covseg_ray.segmentation.evaluation.froc import RULE, FreeResponse
from covseg_ray.segmentation.evaluation.reliability import Reliability
from covseg_ray.segmentation.network.bundle import Bundle
from covseg_ray.storage.datasets.read import Subset, read_info

METRICS_HOW = "covseg-ray evaluate on split {split}; 95 % intervals from 1,000 bootstrap resamples of the films"
AS_IS = "as it is"
GROUPS = {"label": "", "infected_share": "Infection "}


def evaluation_page(bundle: Bundle, films: Subset, evaluation: Evaluation, stress: Stress | None = None) -> str:
    """The report of a model on films, as HTML."""
    return model_report(
        title=f"{bundle.spec.architecture} {bundle.spec.encoder} on {films.split}",
        metrics=intervals(evaluation.metrics),
        films=evaluation.films,
        facts=facts(bundle, films, evaluation),
        ious=evaluation.infected_ious,
        findings=replace(findings({"model": evaluation}), stress=stress_rows(stress) if stress else ()),
    )


def compare_page(first: Bundle, second: Bundle, films: Subset, found: Comparison) -> str:
    """The report of two models on the same films, as HTML."""
    models = {"A": first, "B": second}
    facts = {name: model_words(bundle) for name, bundle in models.items()}
    facts |= films_facts(films, found.first, found.notes)
    facts |= {f"{name} trained on": trained_words(bundle) for name, bundle in models.items()}
    one, two = intervals(found.first.metrics), intervals(found.second.metrics)
    changes = intervals(found.differences)
    return compare_report(
        title=f"Two models on {films.split}",
        facts=facts,
        metrics=[
            ComparedMetric(name, one[name], two[name], changes[name], each.not_better)
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


def intervals(metrics: Mapping[str, Estimate]) -> dict[str, Interval]:
    return {name: (e.value, e.low, e.high) for name, e in metrics.items()}


def findings(evaluations: Mapping[str, Evaluation]) -> Findings:
    """Groups of films, calibration and the free-response view of models by name, all on the same films; the groups of a
    single one."""
    strata = next(iter(evaluations.values())).strata if len(evaluations) == 1 else {}
    return Findings(
        strata=[
            StratumRow(stratum_words(group, name), stratum.images, intervals(stratum.metrics))
            for group, members in strata.items()
            for name, stratum in members.items()
        ],
        reliability=[_reliability(name, each.calibration[ALL]) for name, each in evaluations.items()],
        free_response=free_response_view({name: each.free_response for name, each in evaluations.items()}),
        expected_iou=[
            ExpectedIouLine(name, list(zip(found.expected, found.true, strict=True)), expected_iou_words(found))
            for name, each in evaluations.items()
            if (found := each.expected_iou)
        ],
    )


def stress_rows(found: Stress) -> list[StressRow]:
    """The films as they are, then each change."""
    as_is = StressRow(AS_IS, intervals(found.as_is.marked), intervals(found.as_is.metrics))
    return [as_is] + [
        StressRow(
            name,
            intervals(each.marked),
            intervals(each.metrics),
            intervals(each.marked_differences),
            intervals(each.differences),
            intervals({name: each.probe_auc})[name] if each.probe_auc else None,
        )
        for name, each in found.changes.items()
    ]


def stratum_words(group: str, name: str) -> str:
    """A stratum's name on a page: ``COVID-19``, ``Infection under 5 %``."""
    return f"{GROUPS[group]}{name}"


def free_response_view(by_model: Mapping[str, FreeResponse]) -> FreeResponseView | None:
    """False regions an infection-free film, or a film where there is none such; None where there is no lesion."""
    first = next(iter(by_model.values()))
    if not first.lesions:
        return None
    across = "false_regions_per_infection_free_film" if first.infection_free_films else "false_regions_per_film"
    which = "infection-free film" if first.infection_free_films else "film"
    points = {
        name: [(getattr(point, across), point.lesions_found or 0.0) for point in found.curve]
        for name, found in by_model.items()
    }
    own = {name: (found.own[across].value, found.own["lesions_found"].value) for name, found in by_model.items()}
    own_points = "; ".join(f"{name}: {free_response_words(found)}" for name, found in by_model.items())
    return FreeResponseView(points, own, f"False regions per {which}", own_points, RULE)


def free_response_words(found: FreeResponse) -> str:
    """Lesions found and false regions under the model's own decision rule, in one line."""
    own = found.own
    false = f"{own['false_regions_per_film'].value:.2f} false regions a film"
    if found.infection_free_films:
        false += f", {own['false_regions_per_infection_free_film'].value:.2f} an infection-free film"
    if not found.lesions:
        return f"{false}; no film has a lesion"
    return f"{own['lesions_found'].value:.1%} of {found.lesions:,} lesions found at {false}"


def expected_iou_words(found: Reliability) -> str:
    """How far the expected IoU is right, in one line."""
    errors = [abs(expected - true) for expected, true in zip(found.expected, found.true, strict=True)]
    return f"rank correlation with the true IoU {found.spearman:.2f}, mean error in a fifth at most {max(errors):.3f}"


def facts(bundle: Bundle, films: Subset, evaluation: Evaluation) -> dict[str, str]:
    """The model and the films that were measured, for a report's table of facts."""
    measured = films_facts(films, evaluation, evaluation.notes)
    return {"Model": model_words(bundle)} | measured | {"Trained on": trained_words(bundle)}


def model_words(bundle: Bundle) -> str:
    return f"{bundle.spec.architecture} with {bundle.spec.encoder}, id {bundle.model_id}"


def films_facts(films: Subset, evaluation: Evaluation, notes: Sequence[str]) -> dict[str, str]:
    count = f"{len(evaluation.image_ids):,}"
    rows = {
        "Measured on": str(films),
        "Films": count + (f"; {evaluation.left_out:,} left out" if evaluation.left_out else ""),
        "Dataset digest": read_info(films.dataset).digest,
    }
    return rows | ({"Note": "; ".join(notes)} if notes else {})


def trained_words(bundle: Bundle) -> str:
    trained = bundle.spec.trained_on
    return f"{trained.images} films of {trained.dataset} ({', '.join(trained.labels)})" if trained else ""


def _reliability(name: str, found: Calibration) -> ReliabilityLine:
    points = [(each.mean_probability, each.infected_share) for each in found.bins]
    return ReliabilityLine(name, points, found.expected_error, found.brier)

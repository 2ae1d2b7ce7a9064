"""An evaluation as a page: its numbers in the words of the reports."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from covseg_ray.engine.evaluation.run import ALL, Evaluation
from covseg_ray.reports.measured import (
    Findings,
    FreeResponseLine,
    FreeResponseView,
    Interval,
    ReliabilityLine,
    StratumRow,
)
from covseg_ray.reports.page import evaluation_report
from covseg_ray.segmentation.estimate import Estimate
from covseg_ray.segmentation.evaluation.calibration import Calibration
from covseg_ray.segmentation.evaluation.froc import RULE, FreeResponse
from covseg_ray.segmentation.network.bundle import Bundle
from covseg_ray.storage.datasets.read import read_info

METRICS_HOW = "covseg-ray evaluate on split {split}; 95 % intervals from 1,000 bootstrap resamples of the films"
GROUPS = {"label": "", "infected_share": "Infection "}


def evaluation_page(
    bundle: Bundle, dataset: str, split: str, labels: Sequence[str] | None, evaluation: Evaluation
) -> str:
    """The report of a model on films, as HTML."""
    return evaluation_report(
        title=f"{bundle.spec.architecture} {bundle.spec.encoder} on {split}",
        metrics=intervals(evaluation.metrics),
        films=evaluation.films,
        facts=facts(bundle, dataset, split, labels, evaluation),
        ious=evaluation.infected_ious,
        findings=findings({"model": evaluation}),
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
    )


def stratum_words(group: str, name: str) -> str:
    """A stratum as a reader calls it: ``COVID-19``, ``Infection under 5 %``."""
    return f"{GROUPS[group]}{name}"


def free_response_view(by_model: Mapping[str, FreeResponse]) -> FreeResponseView | None:
    """False regions an infection-free film, or a film where there is none such; None where there is no lesion."""
    first = next(iter(by_model.values()))
    if not first.lesions:
        return None
    across = "false_regions_per_infection_free_film" if first.infection_free_films else "false_regions_per_film"
    which = "infection-free film" if first.infection_free_films else "film"
    lines = [
        FreeResponseLine(
            name=name,
            points=[(getattr(point, across), point.lesions_found or 0.0) for point in found.curve],
            own=(found.own[across].value, found.own["lesions_found"].value),
        )
        for name, found in by_model.items()
    ]
    told = "; ".join(f"{name}: {free_response_words(found)}" for name, found in by_model.items())
    return FreeResponseView(lines, f"False regions per {which}", told, RULE)


def free_response_words(found: FreeResponse) -> str:
    """The point of the model's own rule in one line."""
    own = found.own
    false = f"{own['false_regions_per_film'].value:.2f} false regions a film"
    if found.infection_free_films:
        false += f", {own['false_regions_per_infection_free_film'].value:.2f} an infection-free film"
    if not found.lesions:
        return f"{false}; no film has a lesion"
    return f"{own['lesions_found'].value:.1%} of {found.lesions:,} lesions found at {false}"


def facts(
    bundle: Bundle, dataset: str, split: str, labels: Sequence[str] | None, evaluation: Evaluation
) -> dict[str, str]:
    """What the numbers of a report were measured on, for its table of facts."""
    films = films_facts(dataset, split, labels, evaluation, evaluation.notes)
    return {"Model": model_words(bundle)} | films | {"Trained on": trained_words(bundle)}


def model_words(bundle: Bundle) -> str:
    return f"{bundle.spec.architecture} with {bundle.spec.encoder}, id {bundle.model_id}"


def films_facts(
    dataset: str, split: str, labels: Sequence[str] | None, evaluation: Evaluation, notes: Sequence[str]
) -> dict[str, str]:
    films = len(evaluation.image_ids)
    told = {
        "Measured on": f"{dataset}, split {split}, {', '.join(labels) if labels else 'all labels'}",
        "Films": f"{films:,}" + (f"; {evaluation.left_out:,} left out" if evaluation.left_out else ""),
        "Dataset digest": read_info(dataset).digest,
    }
    return told | ({"Note": "; ".join(notes)} if notes else {})


def trained_words(bundle: Bundle) -> str:
    trained = bundle.spec.trained_on
    return f"{trained.images} films of {trained.dataset} ({', '.join(trained.labels)})" if trained else ""


def _reliability(name: str, found: Calibration) -> ReliabilityLine:
    points = [(each.mean_probability, each.infected_share) for each in found.bins]
    return ReliabilityLine(name, points, found.expected_error, found.brier)

"""The report of a training or an evaluation as one self-contained HTML page, no script, no request; and what the other
pages share with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from jinja2 import Environment, PackageLoader, StrictUndefined

from covseg_ray import __version__
from covseg_ray.reports import charts, pictures
from covseg_ray.reports.figures import Interval
from covseg_ray.reports.film_result import FilmResult, representative
from covseg_ray.reports.metric_words import place, words_for
from covseg_ray.reports.stress import StressRow, stress_shown

HEADLINES = ("iou_two_class", "iou_pooled", "iou_image", "iou_all", "false_alarm", "severity_error")
IN_STRATA = ("iou_image", "iou_all", "false_alarm", "lung_iou", "severity_error")
PAIRS_SHOWN = 3
TRIPLETS_SHOWN = 4


@dataclass(frozen=True, slots=True)
class StratumRow:
    """A group of films, such as ``Label COVID-19``: how many they are, and their metrics by name."""

    name: str
    films: int
    metrics: Mapping[str, Interval]


@dataclass(frozen=True, slots=True)
class Findings:
    """Beyond the metrics: groups of films, calibration, the free-response view, changed films and the expected IoU,
    each as far as there is one. The first row of ``stress`` is that of the films as they are."""

    strata: Sequence[StratumRow] = ()
    reliability: Sequence[charts.ReliabilityLine] = ()
    free_response: charts.FreeResponseView | None = None
    stress: Sequence[StressRow] = ()
    expected_iou: Sequence[charts.ExpectedIouLine] = ()


def model_report(
    *,
    title: str,
    metrics: Mapping[str, Interval],
    films: Sequence[FilmResult],
    facts: Mapping[str, str],
    ious: Sequence[float],
    findings: Findings,
    history: Sequence[Mapping[str, float]] = (),
    select: str = "iou_two_class",
) -> str:
    """The report of a model as HTML: of its training where there is a ``history``, and of its evaluation.

    ``history`` holds one mapping an epoch (``epoch``, ``loss``, ``val_loss``, ``iou_two_class`` and so on, as in
    ``metrics.jsonl``); ``metrics`` maps a name to value, low and high of its 95 % interval; ``select`` is the metric
    that chose the best epoch; ``ious`` are the scores behind the histogram; ``findings`` have a section each.
    """
    columns = list(dict.fromkeys(key for row in history for key in row))
    rows = [(name, words_for(name), *metrics[name]) for name in sorted(metrics, key=place)]
    infected = [film for film in films if film.truth_HW.any()]
    pairs = infected[:PAIRS_SHOWN] if history else []
    triplets = infected[len(pairs) :][:TRIPLETS_SHOWN] or pairs
    return render(
        "report.html.j2",
        title=title,
        facts=facts,
        metrics=rows,
        cards=[row for row in rows if row[0] in HEADLINES],
        epochs=[[_cell(row.get(column)) for column in columns] for row in history],
        columns=columns,
        training_charts=charts.training_charts(history, select) if history else [],
        best_epoch=charts.best_epoch(history, select) if history else None,
        select=select,
        pairs=[("", film, [pictures.film(film), pictures.truth(film)]) for film in pairs],
        triplets=[("", film, _triplet(film)) for film in triplets],
        iou_histogram=charts.iou_histogram(ious) if ious else None,
        representative=[(role, film, _triplet(film)) for role, film in representative(films)],
        findings=findings_shown(findings),
    )


def render(template: str, **values: object) -> str:
    """The HTML page of ``template``, a file of ``templates/``: every value is escaped, a missing name is an error."""
    environment = Environment(
        loader=PackageLoader("covseg_ray.reports"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(version=__version__, **values)


def findings_shown(findings: Findings) -> dict[str, object]:
    """What ``findings.html.j2`` takes."""
    columns = [name for name in IN_STRATA if any(name in row.metrics for row in findings.strata)]
    return {
        "strata": findings.strata,
        "strata_columns": [(name, words_for(name).title) for name in columns],
        "reliability": charts.reliability(findings.reliability) if findings.reliability else None,
        "free_response": charts.free_response(findings.free_response) if findings.free_response else None,
        "free_response_rule": findings.free_response.rule if findings.free_response else "",
        "expected_iou": charts.expected_iou(findings.expected_iou) if findings.expected_iou else None,
        "stress": stress_shown(findings.stress) if findings.stress else None,
    }


def _triplet(film: FilmResult) -> list[pictures.Picture]:
    return [pictures.film(film), pictures.truth(film), pictures.prediction(film)]


def _cell(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:d}" if isinstance(value, int) else f"{value:.4g}"

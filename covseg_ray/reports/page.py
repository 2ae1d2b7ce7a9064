"""The report of a training or an evaluation as one self-contained HTML page: no script, no request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from covseg_ray.reports import charts, pictures
from covseg_ray.reports.film_result import FilmResult, representative, with_infection
from covseg_ray.reports.measured import Findings, Interval
from covseg_ray.reports.metric_words import METRICS, MetricWords, words_for
from covseg_ray.reports.render import render

HEADLINES = ("iou_two_class", "iou_pooled", "iou_image", "iou_all", "false_alarm", "severity_error")
IN_STRATA = ("iou_image", "iou_all", "false_alarm", "lung_iou", "severity_error")
NOTHING_MORE = Findings()
PAIRS_SHOWN = 3
TRIPLETS_SHOWN = 4


@dataclass(frozen=True)
class Metric:
    name: str
    words: MetricWords
    value: float
    low: float
    high: float


def training_report(
    *,
    title: str,
    history: Sequence[Mapping[str, float]],
    metrics: Mapping[str, Interval],
    films: Sequence[FilmResult],
    facts: Mapping[str, str],
    select: str = "iou_two_class",
    ious: Sequence[float] | None = None,
    findings: Findings = NOTHING_MORE,
) -> str:
    """The report of a run as HTML.

    ``history`` holds one mapping an epoch (``epoch``, ``loss``, ``val_loss``, ``iou_two_class`` and so on, as in
    ``metrics.jsonl``); ``metrics`` maps a name to value, low and high of its 95 % interval; ``select`` is the metric
    that chose the best epoch; ``ious`` are the scores behind the histogram, those of ``films`` when None; ``findings``
    have a section each.
    """
    columns = list(dict.fromkeys(key for row in history for key in row))
    training = {
        "epochs": [[_cell(row.get(column)) for column in columns] for row in history],
        "columns": columns,
        "training_charts": charts.training_charts(history, select),
        "best_epoch": charts.best_epoch(history, select),
        "select": select,
    }
    return _render(title, metrics, films, facts, ious, findings, training)


def evaluation_report(
    *,
    title: str,
    metrics: Mapping[str, Interval],
    films: Sequence[FilmResult],
    facts: Mapping[str, str],
    ious: Sequence[float] | None = None,
    findings: Findings = NOTHING_MORE,
) -> str:
    """As :func:`training_report`, for a model that was evaluated: without history."""
    return _render(title, metrics, films, facts, ious, findings, {"epochs": []})


def _render(
    title: str,
    metrics: Mapping[str, Interval],
    films: Sequence[FilmResult],
    facts: Mapping[str, str],
    ious: Sequence[float] | None,
    findings: Findings,
    training: Mapping[str, object],
) -> str:
    rows = [Metric(name, words_for(name), *metrics[name]) for name in _in_order(metrics)]
    scores = [film.iou for film in films if film.iou is not None] if ious is None else list(ious)
    pairs = with_infection(films, PAIRS_SHOWN) if training["epochs"] else []
    triplets = with_infection(films, len(pairs) + TRIPLETS_SHOWN)[len(pairs) :] or pairs
    return render(
        "report.html.j2",
        title=title,
        facts=facts,
        metrics=rows,
        cards=[row for row in rows if row.name in HEADLINES],
        pairs=[("", film, [pictures.film(film), pictures.truth(film)]) for film in pairs],
        triplets=[("", film, _triplet(film)) for film in triplets],
        iou_histogram=charts.iou_histogram(scores) if scores else None,
        representative=[(role, film, _triplet(film)) for role, film in representative(films)],
        **findings_shown(findings),
        **training,
    )


def findings_shown(findings: Findings) -> dict[str, object]:
    """The arguments of the macros of ``findings.html.j2``."""
    columns = [name for name in IN_STRATA if any(name in row.metrics for row in findings.strata)]
    return {
        "strata": findings.strata,
        "strata_columns": [(name, words_for(name).title) for name in columns],
        "reliability": charts.reliability(findings.reliability) if findings.reliability else None,
        "free_response": charts.free_response(findings.free_response) if findings.free_response else None,
        "free_response_rule": findings.free_response.rule if findings.free_response else "",
    }


def _triplet(film: FilmResult) -> list[pictures.Picture]:
    return [pictures.film(film), pictures.truth(film), pictures.prediction(film)]


def _in_order(metrics: Mapping[str, Interval]) -> list[str]:
    known = [name for name in METRICS if name in metrics]
    return known + [name for name in metrics if name not in METRICS]


def _cell(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:d}" if isinstance(value, int) else f"{value:.4g}"

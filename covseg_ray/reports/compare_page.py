"""The report of a comparison of two models as one self-contained HTML page: no script, no request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from covseg_ray.reports import pictures
from covseg_ray.reports.figures import Interval
from covseg_ray.reports.film_result import ChangedFilm
from covseg_ray.reports.metric_words import MetricWords, place, words_for
from covseg_ray.reports.page import HEADLINES, Findings, StratumRow, findings_shown, render


@dataclass(frozen=True, slots=True)
class ComparedMetric:
    """``change`` is B minus A; ``not_better`` the share of the resamples, 0 to 1, in which B is not better."""

    name: str
    first: Interval
    second: Interval
    change: Interval
    not_better: float

    @property
    def words(self) -> MetricWords:
        return words_for(self.name)

    @property
    def verdict(self) -> str:
        """The conclusion that the interval of the difference allows."""
        _, low, high = self.change
        if low <= 0 <= high:
            return "no clear difference"
        return "B is better" if (low > 0) == self.words.higher_is_better else "A is better"


def compare_report(
    *,
    title: str,
    facts: Mapping[str, str],
    metrics: Sequence[ComparedMetric],
    strata: Sequence[StratumRow],
    findings: Findings,
    films: Sequence[ChangedFilm],
) -> str:
    """The report as HTML. ``metrics`` of ``strata`` are differences, B minus A; all ``films`` are shown."""
    rows = sorted(metrics, key=lambda metric: place(metric.name))
    return render(
        "compare.html.j2",
        title=title,
        facts=facts,
        cards=[row for row in rows if row.name in HEADLINES],
        metrics=rows,
        changed=[
            ("Where B is less wrong", [(film, _strip(film)) for film in films if film.second_wrong < film.first_wrong]),
            ("Where B is more wrong", [(film, _strip(film)) for film in films if film.second_wrong > film.first_wrong]),
        ],
        findings=findings_shown(replace(findings, strata=strata)),
    )


def _strip(film: ChangedFilm) -> list[pictures.Picture]:
    models = {"A": film.first, "B": film.second}
    predictions = [replace(pictures.prediction(result), caption=name) for name, result in models.items()]
    return [pictures.film(film.first), pictures.truth(film.first), *predictions]

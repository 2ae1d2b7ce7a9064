"""The report of a search as one self-contained HTML page: every trial with its values and its score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from covseg_ray.reports import charts
from covseg_ray.reports.metric_words import words_for
from covseg_ray.reports.page import render
from covseg_ray.reports.trial_result import STOPPED, TrialResult, best_of, format_value


def search_report(*, title: str, results: Sequence[TrialResult], select: str, facts: Mapping[str, str]) -> str:
    """The report as HTML. ``select`` is the metric that trials are compared by. One of ``results`` must have an epoch
    and not have failed."""
    best = best_of(results, select)
    shown = [result for result in results if result.history]
    return render(
        "search.html.j2",
        title=title,
        facts=facts,
        best=best,
        best_values={key: format_value(value) for key, value in best.values.items()},
        score=best.score(select),
        select=select,
        words=words_for(select),
        stopped=sum(result.ended == STOPPED for result in results),
        epochs=sum(len(result.history) for result in results),
        most_epochs=sum(result.epochs for result in results),
        curves=charts.trials_over_epochs(shown, best, select),
        over_keys=[charts.trials_over_key(shown, best, select, key) for key in best.values],
        results=sorted(results, key=lambda result: (not result.history, -result.score(select))),
        format_value=format_value,
    )

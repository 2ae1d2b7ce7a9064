"""The report of a bulk segmentation as one self-contained HTML page: what became of an archive, with films to look at.

No script, no request, everything within.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from covseg_ray.radiograph.frontal_check import LEVEL
from covseg_ray.reports import charts, pictures
from covseg_ray.reports.charts import percent
from covseg_ray.reports.templates import render

EXAMPLES_SHOWN = 3
ID_HEAD, ID_TAIL = 20, 39  # what stays of a long id: paths differ most at their end


@dataclass(frozen=True, eq=False, slots=True)
class Outlined:
    """A film with what was found on it: ``image_HW`` uint8, ``mask_HW`` uint8 of 0 and 1 and of the same shape.

    ``infection_fraction`` is the marked share of the film, ``severity`` that of the lung, both 0..1; ``severity`` is
    None where the model does not outline lungs.
    """

    image_id: str
    image_HW: NDArray[np.uint8]
    mask_HW: NDArray[np.uint8]
    infection_fraction: float
    severity: float | None


@dataclass(frozen=True, slots=True)
class RejectedInput:
    """An input that became no film: ``reason`` is a stable code, ``detail`` one line for a person."""

    image_id: str
    reason: str
    detail: str


@dataclass(frozen=True, slots=True)
class Card:
    title: str
    value: str
    note: str


@dataclass(frozen=True, slots=True)
class Reason:
    """One reason for rejects: how many inputs, which share of all, and a few of them."""

    name: str
    count: int
    share: str
    examples: Sequence[RejectedInput]


def archive_report(
    *,
    title: str,
    facts: Mapping[str, str],
    ok: int,
    reasons: Mapping[str, int],
    fractions: Sequence[float] | NDArray[np.floating[Any]],
    films: Sequence[Outlined],
    frontal: Sequence[float] | NDArray[np.floating[Any]],
    unlike: Sequence[Outlined],
    rejects: Sequence[RejectedInput],
) -> str:
    """The report as HTML.

    ``ok`` inputs were outlined, and ``reasons`` counts those that were rejected; ``fractions`` holds the marked share
    (0..1) of each outlined film. ``films`` are all shown, at up to 0.1 MB each, the most infected first; of ``rejects``
    the first three of each reason are. ``frontal`` says how much outlined films are like frontal chest films (0..1; the
    results of an earlier version have no such numbers), and ``unlike`` are the least of them, all shown in their order.
    """
    shares_N = np.asarray(fractions, np.float64)
    found_N = shares_N[shares_N > 0]
    inputs = ok + sum(reasons.values())
    return render(
        "archive.html.j2",
        title=title,
        facts=facts,
        ok=ok,
        cards=_cards(ok, inputs, len(found_N), len(shares_N)),
        found=_found_words(len(found_N), len(shares_N)),
        chart_of_shares=charts.marked_shares(found_N) if len(found_N) else None,
        films=[(film, short_id(film.image_id), _picture(film)) for film in most_infected_first(films)],
        unlike_words=_unlike_words(np.asarray(frontal, np.float64), ok),
        unlike=[(film, short_id(film.image_id), _picture(film)) for film in unlike],
        rejected=_by_reason(reasons, inputs, rejects),
        percent=percent,
        short_id=short_id,
    )


def most_infected_first(films: Sequence[Outlined]) -> list[Outlined]:
    """By the marked share of the film; equal ones by id."""
    return sorted(films, key=lambda film: (-film.infection_fraction, film.image_id))


def short_id(image_id: str) -> str:
    """The id, or its beginning and its end where it is long."""
    if len(image_id) <= ID_HEAD + 1 + ID_TAIL:
        return image_id
    return f"{image_id[:ID_HEAD]}…{image_id[-ID_TAIL:]}"


def _cards(ok: int, inputs: int, found: int, films: int) -> list[Card]:
    rejected = inputs - ok
    of_inputs = [f"{percent(count / inputs)} of the inputs" if inputs else "" for count in (ok, rejected)]
    return [
        Card("Inputs", f"{inputs:,}", ""),
        Card("Outlined", f"{ok:,}", of_inputs[0]),
        Card("Rejected", f"{rejected:,}", of_inputs[1]),
        Card("Infection found", percent(found / films), f"on {found:,} of {films:,} films")
        if films
        else Card("Infection found", "–", "no film was outlined"),
    ]


def _found_words(found: int, films: int) -> str:
    """How many films had nothing marked on them, which the chart leaves out."""
    none = films - found
    if not films:
        return "No film was outlined."
    if not none:
        return "Infection was found on every film."
    count = f"{none:,} of {films:,} films ({percent(none / films)})"
    return f"No infection was found on {count}" + ("; the chart counts the others." if found else ".")


def _unlike_words(frontal_N: NDArray[np.float64], ok: int) -> str:
    """How many films do not look like frontal chest films, and how many were not looked at for it."""
    unlike, judged = int((frontal_N < LEVEL).sum()), len(frontal_N)
    unjudged = f" Outlined by an earlier version, and not judged: {ok - judged:,}." if judged < ok else ""
    if not judged:
        return f"No film was judged.{unjudged}"
    if not unlike:
        return f"Every film looks like a frontal chest film.{unjudged}"
    count = f"{unlike:,} of {judged:,} films ({percent(unlike / judged)})"
    return (
        f"{count} with a frontal below {LEVEL:g}, which about {percent(LEVEL)} of true frontal chest films have, too. "
        f"Do not rely on what is outlined on them.{unjudged}"
    )


def _picture(film: Outlined) -> pictures.Picture:
    share = percent(film.infection_fraction)
    told = f"{film.image_id} with the model's outline: {share} of the film is marked"
    return pictures.outlined(film.image_HW, film.mask_HW, told)


def _by_reason(reasons: Mapping[str, int], inputs: int, rejects: Sequence[RejectedInput]) -> list[Reason]:
    """The commonest first; equal ones by name."""
    examples: dict[str, list[RejectedInput]] = {}
    for reject in rejects:
        examples.setdefault(reject.reason, []).append(reject)
    return [
        Reason(name, count, percent(count / inputs), examples.get(name, [])[:EXAMPLES_SHOWN])
        for name, count in sorted(reasons.items(), key=lambda item: (-item[1], item[0]))
        if count
    ]

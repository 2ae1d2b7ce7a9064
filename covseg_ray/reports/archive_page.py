"""The report of a bulk segmentation as one self-contained HTML page: no script, no request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from covseg_ray.radiograph.frontal_check import LEVEL
from covseg_ray.reports import charts, pictures
from covseg_ray.reports.page import render

ID_HEAD, ID_TAIL = 20, 39  # what stays of a long id: paths differ most at their end


@dataclass(frozen=True, eq=False, slots=True)
class SegmentedFilm:
    """A film with its predicted mask: ``image_HW`` uint8, ``mask_HW`` uint8 of 0 and 1 and of the same shape.

    ``infection_fraction`` is the marked share of the film, ``severity`` that of the lung, both 0..1; ``severity`` is
    None where the model does not segment lungs, ``expected_iou`` (0..1) where it expects none.
    """

    image_id: str
    image_HW: NDArray[np.uint8]
    mask_HW: NDArray[np.uint8]
    infection_fraction: float
    severity: float | None
    expected_iou: float | None = None


def archive_report(
    *,
    title: str,
    facts: Mapping[str, str],
    ok: int,
    reasons: Mapping[str, int],
    fractions: Sequence[float] | NDArray[np.floating[Any]],
    unsure: Sequence[SegmentedFilm],
    films: Sequence[SegmentedFilm],
    frontal: Sequence[float] | NDArray[np.floating[Any]],
    unlike: Sequence[SegmentedFilm],
    rejects: Mapping[str, Sequence[tuple[str, str]]],
) -> str:
    """The report as HTML.

    ``ok`` inputs were segmented, and ``reasons`` counts those that were rejected; ``fractions`` holds the infected
    share (0..1) of each segmented film. All ``films`` are shown, at up to 0.1 MB each, the most infected first, and all
    ``rejects``, which are examples by reason: the id, and one line for a person. ``unsure`` are films with infection
    and the lowest expected IoU, shown in their order. ``frontal`` says how much each segmented film is like a frontal
    chest film (0..1), and ``unlike`` are films least like one, shown in their order.
    """
    shares_N = np.asarray(fractions, np.float64)
    found_N = shares_N[shares_N > 0]
    inputs = ok + sum(reasons.values())
    by_infection = sorted(films, key=lambda film: (-film.infection_fraction, film.image_id))
    return render(
        "archive.html.j2",
        title=title,
        facts=facts,
        inputs=inputs,
        ok=ok,
        found=len(found_N),
        segmented=len(shares_N),
        chart_of_shares=charts.marked_shares(found_N) if len(found_N) else None,
        unsure=[(film, _picture(film)) for film in unsure],
        films=[(film, _picture(film)) for film in by_infection],
        judged=len(frontal),
        unlike_count=int((np.asarray(frontal) < LEVEL).sum()),
        level=LEVEL,
        unlike=[(film, _picture(film)) for film in unlike],
        rejected=[
            (name, count, charts.percent(count / inputs), rejects.get(name, ()))
            for name, count in sorted(reasons.items(), key=lambda item: (-item[1], item[0]))
            if count
        ],
        percent=charts.percent,
        short_id=short_id,
    )


def short_id(image_id: str) -> str:
    """The id, or its beginning and its end where it is long."""
    if len(image_id) <= ID_HEAD + 1 + ID_TAIL:
        return image_id
    return f"{image_id[:ID_HEAD]}…{image_id[-ID_TAIL:]}"


def _picture(film: SegmentedFilm) -> pictures.Picture:
    share = charts.percent(film.infection_fraction)
    alternative = f"{film.image_id} with the predicted mask: {share} of the film is infection"
    return pictures.segmented(film.image_HW, film.mask_HW, alternative)

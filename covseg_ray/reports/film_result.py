"""One film with its truth and its prediction, and the choice of example films."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False, slots=True)
class FilmResult:
    """``image_HW`` is uint8; ``truth_HW`` and ``predicted_HW`` are uint8, 1 where there is infection.

    ``iou`` is that of infection, in 0..1, and None for a film without infection.
    """

    image_id: str
    label: str
    image_HW: NDArray[np.uint8]
    truth_HW: NDArray[np.uint8]
    predicted_HW: NDArray[np.uint8]
    iou: float | None


@dataclass(frozen=True, eq=False, slots=True)
class ChangedFilm:
    """A film with the predictions of two models; ``first_wrong`` and ``second_wrong`` are the share of its pixels, 0 to
    1, that are false positive or false negative."""

    first: FilmResult
    second: FilmResult
    first_wrong: float
    second_wrong: float


def representative(films: Sequence[FilmResult]) -> list[tuple[str, FilmResult]]:
    """The best, the median and the worst film by IoU, and the infection-free film with the largest area marked.

    The median of an even number is the lower of the two in the middle, so that it is an existing film. A film is listed
    once: with fewer than three scored films the later roles are left out.
    """
    scored = sorted(
        ((film.iou, film.image_id, film) for film in films if film.iou is not None), key=lambda row: row[:2]
    )
    last = len(scored) - 1
    roles = {0: "Worst", last // 2: "Median", last: "Best"} if scored else {}  # the better role stays
    chosen = [(role, scored[index][2]) for index, role in reversed(roles.items())]
    alarms = [film for film in films if not film.truth_HW.any() and film.predicted_HW.any()]
    if alarms:
        chosen.append(("Largest false alarm", max(alarms, key=lambda film: float(film.predicted_HW.mean()))))
    return chosen

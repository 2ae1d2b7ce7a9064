"""Free-response curve (FROC): lesions found over false regions, for thresholds of the probability.

Bunch et al. 1978 ("A free-response approach to the measurement and characterization of radiographic-observer
performance", J Appl Photogr Eng 4, 166); Chakraborty 1989 (Med Phys 16, 561). A film may hold any number of lesions and
a model mark any number of regions, so a false region counts however small its area.

- A lesion is a connected region (8 neighbours) of the true mask, a marked region one of the predicted mask.
- A lesion is found where at least 20 % of its pixels are predicted: intersection over reference, as Maier-Hein et al.
  2024 ("Metrics reloaded", Nat Methods 21, 195) name it; the 20 % are a choice of this project's.
- A marked region is false where it shares no pixel with any lesion.

All are integer counts of each film, merged over films by adding. At low thresholds regions merge, and their number can
fall again: the curve is not monotonic, and no area under it is computed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from covseg_ray.segmentation.estimate import Estimate
from covseg_ray.segmentation.evaluation.bootstrap import estimate
from covseg_ray.segmentation.network.decision import CONNECTIVITY, MAX_LEVEL

# In 255ths: a step of about 0.05, and one nearer to either end.
THRESHOLDS = (3, *range(13, 248, 13), 252)
FOUND_IN_PERCENT = 20
RULE = (
    f"a lesion (8-connected region of the truth) is found where at least {FOUND_IN_PERCENT} % of its pixels are "
    "predicted; a predicted region is false where it shares no pixel with a lesion"
)

# [N, 1 + 2 * (1 + thresholds)]: lesions; found, then false: by the model's rule, by threshold
Marks = NDArray[np.int64]


class Point(NamedTuple):
    """Of one threshold (0 to 1): the share of lesions found, and false regions a film; None where there are no such
    lesions or films."""

    threshold: float
    false_regions_per_film: float
    lesions_found: float | None = None
    false_regions_per_infection_free_film: float | None = None


@dataclass(frozen=True, slots=True)
class FreeResponse:
    """``own`` is what the model's own rule gives, with intervals, by the names of :class:`Point`; ``curve`` goes from
    the lowest threshold to the highest."""

    films: int
    infection_free_films: int
    lesions: int
    own: dict[str, Estimate]
    curve: tuple[Point, ...]


def mark(probabilities_NHW: NDArray[np.uint8], predicted_NHW: NDArray[np.bool_], truth_NHW: NDArray[np.bool_]) -> Marks:
    """Of each film its lesions, and those found and the false regions, by the predicted mask and by each threshold."""
    films = zip(probabilities_NHW, predicted_NHW, truth_NHW, strict=True)
    return np.array([_mark(*film) for film in films], dtype=np.int64).reshape(-1, 3 + 2 * len(THRESHOLDS))


def free_response(marks_NM: Marks) -> FreeResponse:
    """The curve over films, at least one, and the point of the model's own rule with bootstrap 95 % intervals."""
    lesions_N, (found_NT, false_NT) = marks_NM[:, 0], np.split(marks_NM[:, 1:].astype(np.float64), 2, axis=1)
    free_N = (lesions_N == 0).astype(np.float64)
    ratios = {
        "lesions_found": (found_NT, lesions_N.astype(np.float64)),
        "false_regions_per_film": (false_NT, np.ones_like(free_N)),
        "false_regions_per_infection_free_film": (false_NT * free_N[:, None], free_N),
    }
    defined = {name: (over_NT, under_N) for name, (over_NT, under_N) in ratios.items() if under_N.any()}
    shares_T = {name: over_NT.sum(axis=0) / under_N.sum() for name, (over_NT, under_N) in defined.items()}
    return FreeResponse(
        films=len(marks_NM),
        infection_free_films=int(free_N.sum()),
        lesions=int(lesions_N.sum()),
        own=estimate({name: (over_NT[:, 0], under_N) for name, (over_NT, under_N) in defined.items()}),
        curve=tuple(
            Point(level / MAX_LEVEL, **{name: float(share_T[place]) for name, share_T in shares_T.items()})
            for place, level in enumerate(THRESHOLDS, start=1)
        ),
    )


def _mark(
    probabilities_HW: NDArray[np.uint8], predicted_HW: NDArray[np.bool_], truth_HW: NDArray[np.bool_]
) -> list[int]:
    lesions_HW, lesions = ndimage.label(truth_HW, CONNECTIVITY)
    sizes = np.bincount(lesions_HW.ravel(), minlength=lesions + 1)[1:]
    masks = [predicted_HW, *(probabilities_HW >= level for level in THRESHOLDS)]
    overlaps = [np.bincount(lesions_HW[mask_HW], minlength=lesions + 1)[1:] for mask_HW in masks]
    found = [int((100 * overlap >= FOUND_IN_PERCENT * sizes).sum()) for overlap in overlaps]
    return [lesions, *found, *(_false_regions(mask_HW, truth_HW) for mask_HW in masks)]


def _false_regions(mask_HW: NDArray[np.bool_], truth_HW: NDArray[np.bool_]) -> int:
    regions_HW, regions = ndimage.label(mask_HW, CONNECTIVITY)
    return int(regions) - len(np.unique(regions_HW[mask_HW & truth_HW]))

"""Search the decision rule that scores best on labelled films: its threshold and its smallest region.

Counts of pixels for every pair of the two are integers for each film, so they are merged by adding, and the score is
``iou_all``: the mean IoU over all films, 1 where prediction and truth are both empty.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from covseg_ray.segmentation.evaluation.metrics import Counts, image_iou
from covseg_ray.segmentation.network.decision import CONNECTIVITY, MAX_LEVEL

LEVELS = tuple(range(13, 243, 10))  # probabilities in 255ths: 0.05 to 0.95
SHARES = (0.0, 0.0005, 0.001, 0.002, 0.004, 0.008, 0.016)  # smallest regions, of the film's pixels


@dataclass(frozen=True, slots=True)
class Choice:
    """The best pair and its mean IoU over all films.

    ``expected`` is the score on held-out films: each half of the films scored by the pair that is best on the other
    half (two-fold cross-validation, Stone 1974)."""

    threshold: float
    smallest_region: int
    score: float
    expected: float


def count_rules(
    probabilities_NHW: NDArray[np.uint8],
    truth_NHW: NDArray[np.bool_],
    levels: tuple[int, ...],
    regions: tuple[int, ...],
) -> Counts:
    """Pixels of each film under each pair of a level (of 255) and a smallest region (in pixels): int64
    ``[N, levels, regions, 4]``, the last axis tp, fp, fn, tn."""
    counts = np.empty((len(probabilities_NHW), len(levels), len(regions), 4), np.int64)
    for film, (probability_HW, truth_HW) in enumerate(zip(probabilities_NHW, truth_NHW, strict=True)):
        for place, level in enumerate(levels):
            counts[film, place] = _count_regions(probability_HW >= level, truth_HW, regions)
    return counts


def choose(counts_NLR4: Counts, levels: tuple[int, ...], regions: tuple[int, ...]) -> Choice:
    """The pair with the best mean IoU over the films; of equals, the lowest level with the smallest region."""
    iou_NLR = image_iou(counts_NLR4.reshape(-1, 4)).reshape(counts_NLR4.shape[:3])
    halves = iou_NLR[::2], iou_NLR[1::2]
    other = sum(scored[(slice(None), *_best(chose))].sum() for chose, scored in (halves, halves[::-1]))
    level, region = _best(iou_NLR)
    return Choice(
        threshold=(levels[level] - 0.5) / MAX_LEVEL,  # what rounds to the level
        smallest_region=regions[region],
        score=float(iou_NLR[:, level, region].mean()),
        expected=float(other / len(iou_NLR)),
    )


def _best(iou_NLR: NDArray[np.float64]) -> tuple[int, int]:
    level, region = np.unravel_index(iou_NLR.mean(0).argmax(), iou_NLR.shape[1:])
    return int(level), int(region)


def _count_regions(found_HW: NDArray[np.bool_], truth_HW: NDArray[np.bool_], regions: tuple[int, ...]) -> Counts:
    labels_HW, _ = ndimage.label(found_HW, CONNECTIVITY)
    sizes = np.bincount(labels_HW.ravel())
    hits = np.bincount(labels_HW.ravel(), weights=truth_HW.ravel()).astype(np.int64)
    sizes[0] = hits[0] = 0  # background is no region
    kept = [sizes >= region for region in regions]
    found, tp = (np.array([each[keep].sum() for keep in kept]) for each in (sizes, hits))
    infected, pixels = int(truth_HW.sum()), truth_HW.size
    return np.stack([tp, found - tp, infected - tp, pixels - found - infected + tp], axis=1)

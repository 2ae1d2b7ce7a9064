"""Calibration of the predicted probabilities: pixels counted by probability and truth.

The counts are integers; those of batches, workers and films are merged by adding. Over the infection's probability of
each pixel, in 255ths:

- expected calibration error (Guo et al. 2017, "On Calibration of Modern Neural Networks", section 2): 15 bins of equal
  width, closed above, ``sum over bins of pixels_b / pixels * |infected share_b - mean probability_b|``. It is the form
  for two classes: theirs bins the probability of the class that is predicted, this one that of infection;
- Brier score (Brier 1950): mean of ``(probability - truth)^2``, truth 0 or 1.

Most pixels are certain background, which makes both small over whole films: compare them between models on the same
films, and see the bins.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from covseg_ray.segmentation.network.decision import MAX_LEVEL

LEVELS = MAX_LEVEL + 1
BINS = 15
_PER_BIN = MAX_LEVEL // BINS

Histogram = NDArray[np.int64]  # [2, 256]: pixels by truth (without infection, with) and probability in 255ths


class Bin(NamedTuple):
    """Pixels whose probability lies in one fifteenth: how many, their mean probability, and the infected share."""

    pixels: int
    mean_probability: float
    infected_share: float


@dataclass(frozen=True, slots=True)
class Calibration:
    """``bins`` that hold a pixel, from the lowest probability to the highest; both scores 0 to 1, lower is better."""

    pixels: int
    expected_error: float
    brier: float
    bins: tuple[Bin, ...]


def count_levels(probabilities_NHW: NDArray[np.uint8], truth_NHW: NDArray[np.bool_]) -> Histogram:
    """Pixels by truth and probability (in 255ths): int64 ``[2, 256]``."""
    codes = probabilities_NHW + truth_NHW.astype(np.uint16) * LEVELS
    return np.bincount(codes.ravel(), minlength=2 * LEVELS).reshape(2, LEVELS).astype(np.int64)


def calibration(histogram_2L: Histogram) -> Calibration:
    """The scores and bins of a histogram that holds a pixel."""
    levels_L = np.arange(LEVELS) / MAX_LEVEL
    pixels_L = histogram_2L.sum(axis=0)
    total = int(pixels_L.sum())
    # 255 is 15 times 17: level 17 closes the first bin, and 0 belongs to it too.
    starts = np.concatenate([[0], np.arange(1, BINS) * _PER_BIN + 1])
    pixels, sums, infected = (
        np.add.reduceat(column, starts) for column in (pixels_L, pixels_L * levels_L, histogram_2L[1])
    )
    squares = histogram_2L[0] * levels_L**2 + histogram_2L[1] * (1 - levels_L) ** 2
    return Calibration(
        pixels=total,
        expected_error=float(np.abs(infected - sums).sum() / total),
        brier=float(squares.sum() / total),
        bins=tuple(
            Bin(int(n), float(s / n), float(i / n)) for n, s, i in zip(pixels, sums, infected, strict=True) if n
        ),
    )

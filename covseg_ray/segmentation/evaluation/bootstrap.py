"""Bootstrap intervals of metrics, each a ratio of two sums over independent units, and of the paired difference of two.

A resample draws as many units as there are, with replacement; the same number of units draws the same
ones, which is what pairs two models measured on the same films. Efron & Tibshirani 1993: percentile intervals, chapter
13; two-sample problems, chapter 8. Units are films (batches for ``iou_two_class``): where a patient has several, they
are not independent, and intervals come out somewhat too narrow.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from covseg_ray.segmentation.estimate import Estimate

RESAMPLES = 1000
_WEIGHTS_AT_ONCE = 4_000_000

Floats = NDArray[np.float64]
Ratio = tuple[Floats, Floats]  # what is summed above and below the line, float64 [units] each, never zero below in all


@dataclass(frozen=True, slots=True)
class Difference(Estimate):
    """The second model's value minus the first's, its paired bootstrap 95 % interval, and the share of the resamples
    (0 to 1) in which the second is not better than the first."""

    not_better: float


def value(ratio: Ratio) -> float:
    """The metric itself: one sum over the other."""
    over, under = ratio
    return float(over.sum() / under.sum())


def estimate(ratios: Mapping[str, Ratio]) -> dict[str, Estimate]:
    """Each metric with its 95 % percentile interval."""
    resampled = _resampled(ratios)
    return {name: Estimate(value(ratio), *percentile_interval(resampled[name])) for name, ratio in ratios.items()}


def difference(
    first: Mapping[str, Ratio], second: Mapping[str, Ratio], lower_is_better: frozenset[str]
) -> dict[str, Difference]:
    """Second minus first for each metric that both have, over the same units in the same order.

    Raises:
        ValueError: the two have different numbers of units.
    """
    names = [name for name in first if name in second]
    for name in names:
        if len(first[name][0]) != len(second[name][0]):
            raise ValueError(f"{name}: {len(first[name][0])} and {len(second[name][0])} units are not the same films")
    one, two = _resampled(first), _resampled(second)
    found = {}
    for name in names:
        changes = two[name] - one[name]
        gains = -changes if name in lower_is_better else changes
        not_better = float((gains[np.isfinite(gains)] <= 0).mean())
        found[name] = Difference(value(second[name]) - value(first[name]), *percentile_interval(changes), not_better)
    return found


def percentile_interval(values: Floats) -> tuple[float, float]:
    """The 95 % interval of a metric's values in the resamples, float64 ``[resamples]``; NaN does not count."""
    low, high = np.percentile(values[np.isfinite(values)], [2.5, 97.5])
    return float(low), float(high)


def _resampled(ratios: Mapping[str, Ratio]) -> dict[str, Floats]:
    """Each metric's value in each resample, float64 ``[resamples]``; NaN where it has nothing to stand on."""
    values: dict[str, Floats] = {}
    for units in {len(over) for over, _ in ratios.values()}:
        names = [name for name, (over, _) in ratios.items() if len(over) == units]
        columns = np.stack([column for name in names for column in ratios[name]], axis=1)
        sums = np.concatenate([weights @ columns for weights in resample_weights(units)])
        over, under = sums[:, 0::2], sums[:, 1::2]
        shares = np.divide(over, under, out=np.full_like(over, np.nan), where=under > 0)
        values.update(zip(names, shares.T, strict=True))
    return values


def resample_weights(units: int) -> Iterator[Floats]:
    """How often each unit was drawn, float64 ``[resamples, units]``, in pieces that fit in memory."""
    generator = np.random.default_rng(0)
    chances = np.full(units, 1 / units)
    piece = max(1, min(RESAMPLES, _WEIGHTS_AT_ONCE // units))
    for start in range(0, RESAMPLES, piece):
        yield generator.multinomial(units, chances, size=min(piece, RESAMPLES - start)).astype(np.float64)

"""The curve from a film's agreement to its expected IoU, and how far expected IoU is right."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression
from scipy.stats import spearmanr

from covseg_ray.segmentation.inference.expected_iou import Curve

MOST_KNOTS = 20
FIFTHS = 5


class Reliability(NamedTuple):
    """How far expected IoU is right: ``spearman``, its rank correlation with the true one, and for each fifth of the
    films, from the lowest expected IoU on, the means of both."""

    spearman: float
    expected: tuple[float, ...]
    true: tuple[float, ...]


def fit(agreement_N: NDArray[np.float64], iou_N: NDArray[np.float64]) -> Curve:
    """The curve from agreement to IoU on these films, of which there is one or more.

    Isotonic regression, as Zadrozny and Elkan 2002 calibrate classifiers, at the mean of each of MOST_KNOTS or fewer
    parts of equal numbers of films, in the order of agreement.
    """
    order_N = np.argsort(agreement_N, kind="stable")
    rising_N = isotonic_regression(iou_N[order_N]).x
    parts = np.array_split(np.arange(len(order_N)), min(MOST_KNOTS, len(order_N)))
    knots = {float(agreement_N[order_N[part]].mean()): float(rising_N[part].mean()) for part in parts}
    return tuple(sorted(knots.items()))


def reliability(expected_N: NDArray[np.float64], iou_N: NDArray[np.float64]) -> Reliability | None:
    """Of five films or more; None of fewer, or where all have one expected or one true IoU."""
    if len(expected_N) < FIFTHS or np.ptp(expected_N) == 0 or np.ptp(iou_N) == 0:
        return None
    fifths = np.array_split(np.argsort(expected_N, kind="stable"), FIFTHS)
    means = [tuple(float(each_N[fifth].mean()) for fifth in fifths) for each_N in (expected_N, iou_N)]
    return Reliability(float(spearmanr(expected_N, iou_N).statistic), *means)

"""How well a film is probably segmented: the IoU to be expected of its mask, from the model's own probabilities.

If each pixel had infection with the probability p that the model gives it, independently, the intersection of the mask
M with the truth would on average be the sum of p over M, and the union the size of M plus the sum of p outside it. The
quotient is a film's ``agreement``. Models are surer than they are right, so a curve that was fitted on films with masks
(`covseg_ray.segmentation.evaluation.reliability`) leads from there to the expected IoU.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from covseg_ray.segmentation.network.decision import MAX_LEVEL

SMOOTH = 1 / 1000  # of a film's pixels, on both sides of the fraction: for films with an empty mask

Curve: TypeAlias = tuple[tuple[float, float], ...]  # agreement, expected IoU; both rise


def agreement(probabilities_NHW: NDArray[np.uint8], found_NHW: NDArray[np.bool_]) -> NDArray[np.float64]:
    """float64 ``[N]``, 0 to 1: the fraction above, of probabilities in 255ths and the predicted mask."""
    weights_NK = probabilities_NHW.reshape(len(probabilities_NHW), -1)
    found_NK = found_NHW.reshape(weights_NK.shape)
    inside_N = (weights_NK * found_NK).sum(axis=1, dtype=np.int64)
    outside_N = weights_NK.sum(axis=1, dtype=np.int64) - inside_N
    smooth = SMOOTH * weights_NK.shape[1]
    union_N = found_NK.sum(axis=1) + outside_N / MAX_LEVEL
    fraction_N: NDArray[np.float64] = (inside_N / MAX_LEVEL + smooth) / (union_N + smooth)
    return fraction_N


def expected_iou(curve: Curve, agreement_N: NDArray[np.float64]) -> NDArray[np.float64]:
    """float64 ``[N]``: the curve at each agreement, on straight lines between its knots and level beyond them."""
    at, value = np.array(curve).T
    expected_N: NDArray[np.float64] = np.interp(agreement_N, at, value)
    return expected_N

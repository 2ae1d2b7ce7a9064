"""Whether a model's output tells a changed film from the same film as it is: a linear probe on summaries of the output.

Alain & Bengio 2016 ("Understanding intermediate layers using linear classifier probes") probe hidden layers; here the
probed layer is the last. The probe is Fisher's linear discriminant (Hastie, Tibshirani & Friedman 2009, section 4.3) on
standardised features, with 0.001 added to the diagonal of their covariance. It is fitted on four fifths of the films
and scores the other fifth; both versions of a film are in the same one. The area under the ROC curve (AUC) is the share
of pairs within a fifth, a changed film and another film as it is, in which the changed one has the higher score; equal
scores count one half. At 0.5 the output does not tell them apart, at 1 it always does. A film is not paired with
itself: resamples hold it several times, and would have more such pairs than the films have.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from covseg_ray.segmentation.estimate import Estimate
from covseg_ray.segmentation.evaluation.bootstrap import Floats, percentile_interval, resample_weights
from covseg_ray.segmentation.network.decision import MAX_LEVEL

FOLDS = 5
FEWEST_FILMS = 4 * FOLDS
_RIDGE = 1e-3
_SMALLEST = 1e-5  # below one pixel of 256 x 256: a share of 0 has no logarithm


def summarise_output(
    probabilities_NHW: NDArray[np.uint8], infection_NHW: NDArray[np.bool_], lungs_NHW: NDArray[np.bool_]
) -> Floats:
    """Of each film's output, float64 ``[N, 6]``: mean and highest probability of infection, the shares of pixels of at
    least 0.1 and 0.5, and of those predicted as infection and as lung, infected or not. All as logarithms, as most are
    near 0. ``probabilities_NHW`` are in 255ths.
    """
    pixels = probabilities_NHW.reshape(len(probabilities_NHW), -1)
    shares = [
        pixels.mean(axis=1) / MAX_LEVEL,
        pixels.max(axis=1) / MAX_LEVEL,
        *((pixels >= level * MAX_LEVEL).mean(axis=1) for level in (0.1, 0.5)),
        *(mask_NHW.mean(axis=(1, 2)) for mask_NHW in (infection_NHW, lungs_NHW)),
    ]
    logarithms: Floats = np.log(np.stack(shares, axis=1) + _SMALLEST)
    return logarithms


def probe_auc(before_NF: Floats, after_NF: Floats) -> Estimate | None:
    """The probe's AUC on the summaries of the same films as they are and changed, with its bootstrap 95 % interval over
    films; None for fewer than `FEWEST_FILMS` films."""
    films = len(before_NF)
    if films < FEWEST_FILMS:
        return None
    folds = [np.arange(films)[np.random.default_rng(0).permutation(films) % FOLDS == fold] for fold in range(FOLDS)]
    before_N, after_N = np.zeros((2, films))
    for fold in folds:
        mean_F, direction_F = _discriminant(np.delete(before_NF, fold, axis=0), np.delete(after_NF, fold, axis=0))
        before_N[fold], after_N[fold] = ((each_NF[fold] - mean_F) @ direction_F for each_NF in (before_NF, after_NF))

    def auc(weights_RN: Floats) -> Floats:
        parts = [_pairs(before_N[fold], after_N[fold], weights_RN[:, fold]) for fold in folds]
        won_R, pairs_R = np.sum(parts, axis=0)
        return np.asarray(won_R / pairs_R)

    resampled_R = np.concatenate([auc(weights_RN) for weights_RN in resample_weights(films)])
    return Estimate(float(auc(np.ones((1, films)))[0]), *percentile_interval(resampled_R))


def _discriminant(before_NF: Floats, after_NF: Floats) -> tuple[Floats, Floats]:
    """The mean of both, and the direction along which they differ most for their spread: float64 ``[F]`` each."""
    both_NF = np.concatenate([before_NF, after_NF])
    mean_F, spread_F = both_NF.mean(axis=0), both_NF.std(axis=0)
    scale_F = np.where(spread_F > 0, spread_F, 1)
    standard = [(each_NF - mean_F) / scale_F for each_NF in (before_NF, after_NF)]
    residuals_NF = np.concatenate([each_NF - each_NF.mean(axis=0) for each_NF in standard])
    covariance_FF = residuals_NF.T @ residuals_NF / len(residuals_NF) + _RIDGE * np.eye(len(mean_F))
    return mean_F, np.linalg.solve(covariance_FF, standard[1].mean(axis=0) - standard[0].mean(axis=0)) / scale_F


def _pairs(before_N: Floats, after_N: Floats, weights_RN: Floats) -> tuple[Floats, Floats]:
    """Pairs of a changed film with another film as it is: those in which the changed one scores higher, half of the
    equal ones added, and all. Each film counts as often as it was drawn: float64 ``[resamples]`` each."""
    levels, places = np.unique(np.concatenate([before_N, after_N]), return_inverse=True)
    before_LR, after_LR = np.zeros((2, len(levels), len(weights_RN)))
    np.add.at(before_LR, places[: len(before_N)], weights_RN.T)
    np.add.at(after_LR, places[len(before_N) :], weights_RN.T)
    own_N = (after_N > before_N) + 0.5 * (after_N == before_N)
    won_R = (after_LR * (before_LR.cumsum(axis=0) - before_LR / 2)).sum(axis=0) - weights_RN**2 @ own_N
    return won_R, weights_RN.sum(axis=1) ** 2 - (weights_RN**2).sum(axis=1)

"""Detect images that are not frontal chest films: one number, from edges alone, independent of the model.

The image, reduced to 32 x 32 pixels, is described by a histogram of gradient directions in each of 8 x 8 cells
(Dalal and Triggs, CVPR 2005, section 6; here normalised over the whole image, and its square root taken as by
Arandjelović and Zisserman, CVPR 2012). Two Gaussians with principal subspaces (Moghaddam and Pentland, IEEE PAMI 19(7),
1997: the distance in the subspace plus that from it) give the distance from frontal chest films and that from other
images: films rotated, upside down, inverted or cropped, noise, and noise of a film's spectrum. The difference of the
two distances is the nonconformity, and the number is its inductive conformal p-value (Vovk, Gammerman and Shafer,
Algorithmic Learning in a Random World, 2005) among films that were not used in the fit.

``frontal_check.npz`` holds what ``benchmarks/fit/frontal_check_fit.py`` fitted to COVID-QU-Ex's training films.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.resources import as_file, files

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from covseg_ray.radiograph.film import Rejected
from covseg_ray.radiograph.geometry import Placement

LEVEL = 0.005
NOT_FRONTAL = "not-frontal"
FITTED = "frontal_check.npz"
SIDE, CELL, DIRECTIONS = 32, 4, 8
FEATURES = (SIDE // CELL) ** 2 * DIRECTIONS
CELLS_P = np.arange((SIDE // CELL) ** 2).reshape(-1, SIDE // CELL).repeat(CELL, 0).repeat(CELL, 1).ravel()  # of a pixel


@dataclass(frozen=True, eq=False, slots=True)
class Gaussian:
    """``mean_D``; the principal ``axes_DK`` of unit length with the variance along each; the mean of all the others."""

    mean_D: NDArray[np.float32]
    axes_DK: NDArray[np.float32]
    variances_K: NDArray[np.float32]
    rest: float

    def distance(self, features_D: NDArray[np.float32]) -> float:
        """Mahalanobis distance, squared: in the subspace, and from it."""
        centred_D = features_D - self.mean_D
        projected_K = centred_D @ self.axes_DK
        residual = float(centred_D @ centred_D - projected_K @ projected_K)
        return float((projected_K**2 / self.variances_K).sum()) + residual / self.rest


@dataclass(frozen=True, eq=False, slots=True)
class FrontalCheck:
    """The distributions of chest films and of other images; the nonconformity of each held-out film, ascending."""

    films: Gaussian
    others: Gaussian
    held_out_N: NDArray[np.float32]

    def nonconformity(self, picture_HW: NDArray[np.uint8]) -> float:
        """The distance from chest films minus that from other images: any number, large for other images."""
        features_D = edge_histogram(picture_HW)
        return self.films.distance(features_D) - self.others.distance(features_D)

    def p_value(self, picture_HW: NDArray[np.uint8]) -> float:
        """The share of the held-out films of at least this nonconformity, the image included: above 0, up to 1."""
        count = len(self.held_out_N)
        less = int(np.searchsorted(self.held_out_N, self.nonconformity(picture_HW)))
        return (count - less + 1) / (count + 1)


def frontal(square_SS: NDArray[np.uint8], placement: Placement) -> float:
    """The p-value of a film in the model's square, uint8 [S, S], as a frontal chest film: above 0 (unlike any) to 1.

    Of frontal chest films like those of the fit, a share of ``LEVEL`` lies below ``LEVEL``. The bars of a letterbox are
    left out, so that both resize rules give about the same value.
    """
    return load_fitted().p_value(square_SS[placement.inner])


def reject_unlike(value: float) -> Rejected | None:
    """The reason not to segment a film of this p-value, where it lies below ``LEVEL``."""
    if value >= LEVEL:
        return None
    return Rejected(NOT_FRONTAL, f"frontal {value:.4f}, below {LEVEL:g}: it does not look like a frontal chest film")


def edge_histogram(picture_HW: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The features float32 [512] of an image uint8 [H, W] of any size: by row and column of the cell, then direction.

    The gradient of each pixel is divided between the two nearest of eight directions. The mean of the squared features
    is 1; an image without edges gives zeros.
    """
    small = Image.fromarray(picture_HW).resize((SIDE, SIDE), Image.Resampling.BOX)
    down_SS, right_SS = np.gradient(np.asarray(small, np.float32))
    strength_P = np.hypot(right_SS, down_SS).ravel()
    turn_P = (np.arctan2(down_SS, right_SS).ravel() * np.float32(DIRECTIONS / (2 * np.pi))) % DIRECTIONS
    first_P = turn_P.astype(np.intp)
    share_P = turn_P - first_P
    place_P = CELLS_P * DIRECTIONS
    sums_D = np.bincount(place_P + first_P % DIRECTIONS, strength_P * (1 - share_P), FEATURES)
    sums_D += np.bincount(place_P + (first_P + 1) % DIRECTIONS, strength_P * share_P, FEATURES)
    features_D: NDArray[np.float32] = np.sqrt(sums_D * (FEATURES / max(sums_D.sum(), 1e-6))).astype(np.float32)
    return features_D


@cache
def load_fitted() -> FrontalCheck:
    with as_file(files(__package__) / FITTED) as path, np.load(path) as stored:
        return FrontalCheck(_gaussian(stored, "films"), _gaussian(stored, "others"), stored["held_out_N"])


def _gaussian(stored: np.lib.npyio.NpzFile, name: str) -> Gaussian:
    axes_DK, variances_K = (stored[f"{name}_{part}"].astype(np.float32) for part in ("axes_DK", "variances_K"))
    return Gaussian(stored[f"{name}_mean_D"], axes_DK, variances_K, float(stored[f"{name}_rest"]))

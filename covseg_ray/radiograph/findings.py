"""From a model's classes to masks at the film's own size, and the measures taken on them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from covseg_ray.radiograph.geometry import Placement, restore_mask
from covseg_ray.radiograph.severity import Severity, severity


@dataclass(frozen=True, slots=True)
class Measures:
    """Shares of the whole film, 0 to 1; of the lung, ``severity``. None where the model has no class lung."""

    infection_fraction: float
    lung_fraction: float | None = None
    severity: Severity | None = None


def class_masks(
    classes_SS: NDArray[np.uint8], placement: Placement, classes: Sequence[str]
) -> dict[str, NDArray[np.uint8]]:
    """``infection``, and ``lung`` where the model has it: all of the lung, infected too. uint8 [H, W] of 0 and 1.

    ``classes_SS`` holds indices into ``classes``, uint8 [size, size], for the square of ``placement``.
    """
    classes_HW = restore_mask(classes_SS, placement)
    infected_HW = classes_HW == classes.index("infection")
    masks = {"infection": infected_HW.astype(np.uint8)}
    if "lung" in classes:
        masks["lung"] = (infected_HW | (classes_HW == classes.index("lung"))).astype(np.uint8)
    return masks


def measure(masks: Mapping[str, NDArray[np.uint8]]) -> Measures:
    """The measures of the masks of `class_masks`."""
    infection_HW, fraction = masks["infection"], area_fraction(masks["infection"])
    if "lung" not in masks:
        return Measures(fraction)
    return Measures(fraction, area_fraction(masks["lung"]), severity(infection_HW, masks["lung"]))


def area_fraction(mask_HW: NDArray[np.uint8]) -> float:
    """The share of a film's pixels that its mask marks, 0 to 1."""
    return int(np.count_nonzero(mask_HW)) / mask_HW.size

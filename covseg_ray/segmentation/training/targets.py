"""Masks to class indices. No torch: tasks that read films start faster."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

UNKNOWN = 255  # class 0 or class 1: background or lung


def targets(
    masks_NHW: NDArray[np.uint8], lungs_NHW: NDArray[np.uint8] | None, classes: Sequence[str]
) -> NDArray[np.uint8]:
    """Class indices [N, H, W]: infection over lung over background (infection lies inside the lung). Of a film without
    a lung mask, or with one of zeros, what is not infection is UNKNOWN if ``classes`` has lung."""
    found_NHW = np.zeros(masks_NHW.shape, np.uint8)
    if "lung" in classes and lungs_NHW is not None:
        found_NHW[lungs_NHW > 0] = classes.index("lung")
        found_NHW[~lungs_NHW.any(axis=(1, 2))] = UNKNOWN
    found_NHW[masks_NHW > 0] = classes.index("infection")
    return found_NHW

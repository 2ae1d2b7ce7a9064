"""Class indices from masks."""

from __future__ import annotations

import numpy as np
import pytest

from covseg_ray.segmentation.training.targets import UNKNOWN, targets

TWO, THREE = ("background", "infection"), ("background", "lung", "infection")


def test_infection_covers_lung_covers_background() -> None:
    masks_NHW = np.array([[[0, 1], [0, 1]]], np.uint8)
    lungs_NHW = np.array([[[0, 0], [1, 1]]], np.uint8)
    two = targets(masks_NHW, None, TWO)
    three = targets(masks_NHW, lungs_NHW, THREE)
    assert two.tolist() == [[[0, 1], [0, 1]]]
    assert three.tolist() == [[[0, 2], [1, 2]]]
    assert (two.dtype, three.dtype) == (np.uint8, np.uint8)


@pytest.mark.parametrize("classes", [TWO, THREE])
def test_without_a_lung_mask_infection_alone_is_known(classes: tuple[str, ...]) -> None:
    masks_NHW = np.array([[[0, 1], [0, 1]], [[0, 0], [1, 0]]], np.uint8)
    lungs_NHW = np.array([[[0, 0], [0, 0]], [[0, 1], [1, 1]]], np.uint8)
    found_NHW = targets(masks_NHW, lungs_NHW, classes)
    if classes == TWO:
        assert found_NHW.tolist() == masks_NHW.tolist()
    else:
        assert found_NHW.tolist() == [[[UNKNOWN, 2], [UNKNOWN, 2]], [[0, 1], [2, 1]]]

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from matplotlib.path import Path
from numpy.typing import NDArray

from covseg_ray.radiograph.contours import polygons


@given(arrays(np.uint8, st.tuples(st.integers(1, 12), st.integers(1, 12)), elements=st.integers(0, 1)))
def test_contours_enclose_the_pixels_and_nothing_else(mask_HW: NDArray[np.uint8]) -> None:
    """The centre of a pixel of the mask, and no other, lies within an odd number of polygons, as matplotlib says."""
    rows, columns = np.indices(mask_HW.shape)
    centres_P2 = np.stack([columns.ravel() + 0.5, rows.ravel() + 0.5], axis=1)
    inside_P = np.zeros(mask_HW.size, int)
    for contour_P2 in polygons(mask_HW):
        assert contour_P2.shape[1] == 2
        np.testing.assert_array_equal(contour_P2[0], contour_P2[-1])
        inside_P += Path(contour_P2, closed=True).contains_points(centres_P2)
    np.testing.assert_array_equal(inside_P % 2, mask_HW.ravel())


def test_a_square_has_eight_corners() -> None:
    mask_HW = np.zeros((9, 9), np.uint8)
    mask_HW[2:6, 3:8] = 1
    (contour_P2,) = polygons(mask_HW)
    corners = {(3.0, 2.5), (3.5, 2.0), (7.5, 2.0), (8.0, 2.5), (8.0, 5.5), (7.5, 6.0), (3.5, 6.0), (3.0, 5.5)}
    assert {tuple(point) for point in contour_P2.tolist()} == corners
    assert len(contour_P2) == 9


def test_an_empty_mask_has_none() -> None:
    assert polygons(np.zeros((4, 4), np.uint8)) == []


def test_a_hole_is_a_contour_of_its_own() -> None:
    mask_HW = np.ones((7, 7), np.uint8)
    mask_HW[3, 3] = 0
    assert len(polygons(mask_HW)) == 2

"""The infected share of lung, against phantoms whose areas are known and against counting by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from covseg_ray.radiograph.phantom import make_phantom
from covseg_ray.radiograph.severity import severity


def two_lungs() -> NDArray[np.uint8]:
    lung_HW = np.zeros((90, 100), np.uint8)
    lung_HW[0:90, 10:40] = 1
    lung_HW[30:90, 60:90] = 1
    return lung_HW


def test_sides_and_zones_of_rectangles() -> None:
    infection_HW = np.zeros((90, 100), np.uint8)
    infection_HW[0:30, 10:25] = 1  # half of the left lung's upper third
    infection_HW[70:90, 60:90] = 1  # all of the right lung's lower third
    infection_HW[0:90, 45:55] = 1  # between the lungs: not counted
    found = severity(infection_HW, two_lungs())
    assert found.left == pytest.approx(15 * 30 / (30 * 90))
    assert found.right == pytest.approx(1 / 3)
    assert found.whole == pytest.approx((15 * 30 + 20 * 30) / (30 * 90 + 30 * 60))
    assert found.zones == {
        "left-upper": 0.5,
        "left-middle": 0.0,
        "left-lower": 0.0,
        "right-upper": 0.0,
        "right-middle": 0.0,
        "right-lower": 1.0,
    }
    assert found.plausible


@pytest.mark.parametrize(
    ("rows", "columns", "why"),
    [((0, 90), (10, 40), "one lung alone"), ((0, 4), (0, 90), "next to nothing"), ((0, 90), (0, 100), "all the film")],
)
def test_an_implausible_lung_is_told(rows: tuple[int, int], columns: tuple[int, int], why: str) -> None:
    lung_HW = np.zeros((90, 100), np.uint8)
    lung_HW[slice(*rows), slice(*columns)] = 1
    assert not severity(lung_HW, lung_HW).plausible, why


def test_no_lung_has_no_severity() -> None:
    found = severity(np.ones((8, 8), np.uint8), np.zeros((8, 8), np.uint8))
    assert (found.whole, found.left, found.right, set(found.zones.values())) == (None, None, None, {None})
    assert not found.plausible


@pytest.mark.parametrize("index", range(12))
def test_phantoms_are_plausible_and_their_whole_is_the_ratio_of_areas(index: int) -> None:
    phantom = make_phantom(3, index, 256)
    infection_HW, lung_HW = phantom.infection, phantom.lung
    found = severity(infection_HW, lung_HW)
    assert found.plausible
    assert found.whole == pytest.approx(float((infection_HW * lung_HW).sum()) / float(lung_HW.sum()))


@given(
    hnp.arrays(np.uint8, hnp.array_shapes(min_dims=3, max_dims=3, min_side=2, max_side=12), elements=st.integers(0, 1))
)
def test_the_zones_of_any_masks_add_up_to_the_whole(masks_2HW: NDArray[np.uint8]) -> None:
    """Mirrored films have mirrored shares, and none leaves 0 to 1."""
    found = severity(masks_2HW[0], masks_2HW[1])
    shares = [share for share in (found.whole, found.left, found.right, *found.zones.values()) if share is not None]
    assert all(0 <= share <= 1 for share in shares)
    if found.whole is not None:
        sides = [side for side in (found.left, found.right) if side is not None]
        assert min(sides) - 1e-12 <= found.whole <= max(sides) + 1e-12

from __future__ import annotations

import numpy as np
import pytest

from covseg_ray.radiograph.findings import Measures, class_masks, measure
from covseg_ray.radiograph.geometry import standardise

CLASSES = ("background", "lung", "infection")


def test_masks_of_classes_at_the_films_own_size_and_their_shares() -> None:
    """A square twice as small as its film: each of its pixels is four of the film's."""
    _, placement = standardise(np.zeros((8, 8), np.uint8), 4, "stretch")
    classes_SS = np.array([[0, 1, 1, 0], [0, 1, 2, 0], [0, 2, 2, 0], [0, 0, 0, 0]], np.uint8)
    masks = class_masks(classes_SS, placement, CLASSES)
    big_HW = classes_SS.repeat(2, axis=0).repeat(2, axis=1)
    np.testing.assert_array_equal(masks["infection"], big_HW == 2)
    np.testing.assert_array_equal(masks["lung"], big_HW > 0)
    found = measure(masks)
    assert found.infection_fraction == pytest.approx(3 / 16)
    assert found.lung_fraction == pytest.approx(6 / 16)
    assert found.severity is not None
    assert found.severity.whole == pytest.approx(3 / 6)


def test_without_a_lung_class_no_share_is_of_the_lung() -> None:
    _, placement = standardise(np.zeros((4, 4), np.uint8), 4, "stretch")
    masks = class_masks(np.eye(4, dtype=np.uint8), placement, ("background", "infection"))
    assert masks.keys() == {"infection"}
    assert measure(masks) == Measures(0.25)

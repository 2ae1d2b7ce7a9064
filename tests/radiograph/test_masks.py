from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from covseg_ray.errors import DatasetError
from covseg_ray.radiograph.masks import AMBER, binarise, decode_png1, encode_png1, overlay


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 99))
def test_png1_round_trip(height: int, width: int, seed: int) -> None:
    mask_HW = np.random.default_rng(seed).integers(0, 2, (height, width), dtype=np.uint8)
    back_HW = decode_png1(encode_png1(mask_HW))
    assert back_HW.dtype == np.uint8
    np.testing.assert_array_equal(back_HW, mask_HW)


def test_png1_is_one_bit_and_small() -> None:
    mask_HW = np.zeros((256, 256), np.uint8)
    mask_HW[80:200, 60:120] = 1
    data = encode_png1(mask_HW)
    assert data[24:26] == b"\x01\x00"  # IHDR: bit depth 1, grey
    assert len(data) < 300
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(data))), mask_HW.astype(bool))


def test_png1_refuses_what_is_no_mask() -> None:
    with pytest.raises(DatasetError, match="not-an-image"):
        decode_png1(b"<html>")
    with pytest.raises(DatasetError, match="truncated"):
        decode_png1(encode_png1(np.ones((9, 9), np.uint8))[:-20])


@pytest.mark.parametrize("foreground", [1, 128, 255, 65535])
def test_zero_and_one_other_value_are_binary(foreground: int) -> None:
    truth_HW = np.eye(5, dtype=np.uint8)
    np.testing.assert_array_equal(binarise(truth_HW.astype(np.uint16) * np.uint16(foreground)), truth_HW)


def test_a_constant_mask_is_binary() -> None:
    assert binarise(np.zeros((4, 5), np.uint8)).sum() == 0
    assert binarise(np.full((4, 5), 255, np.uint8)).sum() == 20


@pytest.mark.parametrize(("values", "count"), [([0, 1, 2], 3), ([7, 255], 2), (list(range(256)), 256)])
def test_grey_masks_are_refused_with_the_rule(values: list[int], count: int) -> None:
    with pytest.raises(DatasetError, match=rf"holds {count} different values.*0 and one other") as refusal:
        binarise(np.array([values], np.uint8))
    assert "\n" not in str(refusal.value)


def test_overlay_paints_the_mask_alone() -> None:
    film_HW = np.random.default_rng(0).integers(0, 256, (64, 80), dtype=np.uint8)
    mask_HW = np.zeros((64, 80), np.uint8)
    mask_HW[20:40, 30:60] = mask_HW[:5, :5] = 1
    picture_HW3 = overlay(film_HW, mask_HW)
    assert picture_HW3.shape == (64, 80, 3)
    assert picture_HW3.dtype == np.uint8
    outside_HW = mask_HW == 0
    np.testing.assert_array_equal(picture_HW3[outside_HW], np.repeat(film_HW[outside_HW][:, None], 3, axis=1))
    for line_N3 in (picture_HW3[20, 30:60], picture_HW3[0, :5]):  # the film's own edge is the end of a mask, too
        np.testing.assert_array_equal(line_N3, np.tile(AMBER, (len(line_N3), 1)))
    inner = film_HW[21:39, 31:59, None].astype(float)
    np.testing.assert_allclose(picture_HW3[21:39, 31:59], 0.82 * inner + 0.18 * np.array(AMBER), atol=0.51)


def test_overlay_line_grows_with_the_film() -> None:
    mask_HW = np.zeros((900, 900), np.uint8)
    mask_HW[100:800, 100:800] = 1
    painted_HW = (overlay(np.zeros((900, 900), np.uint16), mask_HW) == AMBER).all(axis=2)
    np.testing.assert_array_equal(np.flatnonzero(painted_HW[450, :450]), [100, 101, 102])


def test_overlay_refuses_another_size() -> None:
    with pytest.raises(DatasetError, match="resize one"):
        overlay(np.zeros((5, 5), np.uint8), np.zeros((5, 6), np.uint8))

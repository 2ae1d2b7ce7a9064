from __future__ import annotations

import numpy as np
import pytest
from dicom_films import (
    DEEP_HW,
    GREY_HW,
    RNG,
    film,
    pixels,
    refused,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.pixels import apply_modality_lut, apply_voi_lut
from scipy.special import expit


@settings(max_examples=30)
@given(st.integers(1, 16), st.booleans(), st.integers(0, 2**32))
def test_grey_without_a_window_spans_what_can_be_stored(bits: int, signed: bool, seed: int) -> None:
    low = -(2 ** (bits - 1)) if signed else 0
    values_HW = np.random.default_rng(seed).integers(low, low + 2**bits, (5, 7))
    container = {(False, False): "u1", (False, True): "i1", (True, False): "u2", (True, True): "i2"}[bits > 8, signed]
    stored_HW = values_HW.astype(container)
    top = 255 if bits <= 8 else 65535
    expected_HW = np.rint((values_HW - low) * top / (2**bits - 1))
    shown = {
        kind: pixels(film(stored_HW, BitsStored=bits, PhotometricInterpretation=kind))
        for kind in ("MONOCHROME1", "MONOCHROME2")
    }
    np.testing.assert_array_equal(shown["MONOCHROME2"], expected_HW)
    np.testing.assert_array_equal(shown["MONOCHROME1"], top - expected_HW)
    twin_HW = (2 * low + 2**bits - 1 - values_HW).astype(container)
    np.testing.assert_array_equal(shown["MONOCHROME1"], pixels(film(twin_HW, BitsStored=bits)))


def test_bits_above_the_stored_ones_are_left_out() -> None:
    overlaid_HW = (DEEP_HW & 0x0FFF) | 0xA000
    expected_HW = np.rint((DEEP_HW & 0x0FFF) * (65535 / 4095))
    np.testing.assert_array_equal(pixels(film(overlaid_HW, BitsStored=12)), expected_HW)


def windowed(values_HW: NDArray[np.float64], center: float, width: float, function: str) -> NDArray[np.float64]:
    """PS3.3 C.11.2.1.2 and C.11.2.1.3 for one value at a time, from 0 to 65535."""

    def one(x: float) -> float:
        if function == "SIGMOID":
            return float(expit(4 * (x - center) / width))
        c, w = (center - 0.5, width - 1) if function == "LINEAR" else (center, width)
        if x <= c - w / 2:
            return 0
        return 1 if x > c + w / 2 else (x - c) / w + 0.5

    return 65535 * np.vectorize(one, otypes=[float])(values_HW)


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
@pytest.mark.parametrize(("slope", "intercept"), [(None, None), (1, 0), (2.5, -1000), (-0.5, 300)])
@pytest.mark.parametrize(("center", "width"), [(1000.5, 700), (300, 1), (-200, 4096.25)])
def test_window(center: float, width: float, slope: float | None, intercept: float | None, function: str) -> None:
    stored_HW = (DEEP_HW & 0x0FFF).astype(np.uint16)
    stored_HW[0, :3] = 299, 300, 301
    dataset = film(
        stored_HW,
        BitsStored=12,
        WindowCenter=[center, 17],
        WindowWidth=[width, 3],
        VOILUTFunction=function,
        RescaleSlope=slope,
        RescaleIntercept=intercept,
    )
    values_HW = stored_HW * (1.0 if slope is None else slope) + (0.0 if intercept is None else intercept)
    expected_HW = windowed(values_HW, center, width, function)
    np.testing.assert_allclose(pixels(dataset), expected_HW, atol=0.51)
    dataset.PhotometricInterpretation = "MONOCHROME1"
    np.testing.assert_allclose(pixels(dataset), 65535 - expected_HW, atol=0.51)
    dataset.PresentationLUTShape = "IDENTITY"  # contradicts MONOCHROME1, and is not believed
    np.testing.assert_allclose(pixels(dataset), 65535 - expected_HW, atol=0.51)
    dataset.PresentationLUTShape = "INVERSE"  # says the same, and is not added
    np.testing.assert_allclose(pixels(dataset), 65535 - expected_HW, atol=0.51)


def test_a_window_on_eight_bits_gives_eight_bits() -> None:
    np.testing.assert_array_equal(pixels(film(GREY_HW, WindowCenter=128, WindowWidth=256)), GREY_HW)
    narrow = pixels(film(GREY_HW, WindowCenter=100, WindowWidth=51))
    assert narrow.dtype == np.uint8
    np.testing.assert_allclose(narrow, windowed(GREY_HW.astype(float), 100, 51, "LINEAR") / 257, atol=0.51)


@pytest.mark.parametrize(
    "window",
    [
        {"WindowCenter": 40, "WindowWidth": 0},
        {"WindowCenter": 40, "WindowWidth": 0.5},
        {"WindowCenter": 40, "WindowWidth": -3},
        {"WindowCenter": 40, "WindowWidth": ""},
        {"WindowCenter": [], "WindowWidth": []},
        {"WindowCenter": 40},
        {"WindowCenter": 40, "WindowWidth": 0, "VOILUTFunction": "SIGMOID"},
    ],
)
def test_a_window_that_is_none_is_left_aside(window: dict[str, object]) -> None:
    np.testing.assert_array_equal(pixels(film(GREY_HW, **window)), GREY_HW)


def test_a_rescale_without_a_window_keeps_the_picture() -> None:
    np.testing.assert_array_equal(pixels(film(DEEP_HW, RescaleSlope=0.25, RescaleIntercept=-7)), DEEP_HW)
    np.testing.assert_array_equal(pixels(film(DEEP_HW, RescaleSlope=-2, RescaleIntercept=9)), 65535 - DEEP_HW)
    assert refused(film(DEEP_HW, RescaleSlope=0, RescaleIntercept=9)).reason == "corrupt"


def lut(entries_N: NDArray[np.integer], first: int, bits: int, packed: bool = False) -> Dataset:
    item = Dataset()
    item.LUTDescriptor = [len(entries_N) % 65536, first, bits]
    item.LUTData = entries_N.astype("u1" if packed else "<u2").tobytes()
    item["LUTData"].VR = "OW"
    return item


@pytest.mark.parametrize(("bits", "packed"), [(8, False), (8, True), (12, False), (16, False)])
def test_voi_lut(bits: int, packed: bool) -> None:
    """Among them 8-bit tables of more than 256 entries, which pydicom 3.0 cannot apply."""
    entries_N = RNG.integers(0, 2**bits, 3000)
    stored_HW = (DEEP_HW & 0x0FFF).astype(np.uint16)
    dataset = film(
        stored_HW, BitsStored=12, VOILUTSequence=[lut(entries_N, 500, bits, packed)], WindowCenter=1, WindowWidth=9
    )
    shown = pixels(dataset)
    top = 255 if bits == 8 else 65535
    assert shown.dtype == (np.uint8 if bits == 8 else np.uint16)
    expected_HW = entries_N[np.clip(stored_HW.astype(int) - 500, 0, 2999)] * top / (2**bits - 1)
    np.testing.assert_allclose(shown, expected_HW, atol=0.51)
    if bits > 8:
        by_pydicom_HW = apply_voi_lut(dataset.pixel_array, dataset) * (65535 / (2**bits - 1))
        np.testing.assert_allclose(shown, by_pydicom_HW, atol=0.51)


def test_a_table_of_all_65536_entries_on_signed_pixels() -> None:
    entries_N = RNG.permutation(65536)
    signed_HW = DEEP_HW.view(np.int16)
    dataset = film(signed_HW, VOILUTSequence=[lut(entries_N, -32768, 16)])
    np.testing.assert_array_equal(pixels(dataset), entries_N[signed_HW.astype(int) + 32768])


def test_a_value_between_two_entries_takes_the_nearer() -> None:
    entries_N = RNG.integers(0, 65536, 2000)
    item = Dataset()
    item.LUTDescriptor, item.LUTData = [2000, 0, 16], entries_N.tolist()
    item["LUTData"].VR = "US"
    dataset = film(DEEP_HW, RescaleSlope=0.03, RescaleIntercept=0.123, VOILUTSequence=[item])
    nearest_HW = np.floor(DEEP_HW * 0.03 + 0.123 + 0.5).astype(int)
    np.testing.assert_array_equal(pixels(dataset), entries_N[nearest_HW.clip(0, 1999)])


def test_modality_lut_comes_before_the_window() -> None:
    entries_N = RNG.integers(0, 65536, 4096)
    stored_HW = (DEEP_HW & 0x0FFF).astype(np.uint16)
    dataset = film(stored_HW, BitsStored=12, ModalityLUTSequence=[lut(entries_N, 0, 16)])
    np.testing.assert_array_equal(pixels(dataset), entries_N[stored_HW])
    np.testing.assert_array_equal(pixels(dataset), apply_modality_lut(stored_HW, dataset))
    dataset.WindowCenter, dataset.WindowWidth = 30000, 20000
    expected_HW = windowed(entries_N[stored_HW].astype(float), 30000, 20000, "LINEAR")
    np.testing.assert_allclose(pixels(dataset), expected_HW, atol=0.51)


def test_entries_beyond_their_bits_are_the_brightest() -> None:
    entries_N = np.arange(0, 5000)
    stored_HW = (DEEP_HW % 5000).astype(np.uint16)
    dataset = film(stored_HW, BitsStored=13, VOILUTSequence=[lut(entries_N, 0, 12)])
    np.testing.assert_allclose(pixels(dataset), (stored_HW * (65535 / 4095)).clip(0, 65535), atol=0.51)


def test_a_table_without_entries_is_corrupt() -> None:
    assert refused(film(GREY_HW, VOILUTSequence=[lut(np.zeros(0, int), 0, 12)])).reason == "corrupt"
    assert refused(film(GREY_HW, VOILUTSequence=[lut(np.zeros(256, int), 0, 40)])).reason == "corrupt"
    assert refused(film(GREY_HW, WindowCenter=1, WindowWidth=2, VOILUTFunction="CUBIC")).reason == "unsupported"


@pytest.mark.parametrize("value", [0, 77, 255])
def test_a_constant_film(value: int) -> None:
    flat_HW = np.full((4, 6), value, np.uint8)
    np.testing.assert_array_equal(pixels(film(flat_HW)), flat_HW)
    assert np.unique(pixels(film(flat_HW, WindowCenter=60, WindowWidth=10))).size == 1

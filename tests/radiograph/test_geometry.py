from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.ndimage import center_of_mass, gaussian_filter

from covseg_ray.errors import UsageError
from covseg_ray.radiograph.geometry import Placement, Resize, eight_bits, restore_mask, standardise, standardise_mask

sides = st.integers(1, 90)
rules: st.SearchStrategy[Resize] = st.sampled_from(("stretch", "letterbox"))


def random_mask(height: int, width: int, seed: int) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 2, (height, width), dtype=np.uint8)


@given(
    sides.flatmap(lambda size: st.tuples(st.integers(1, size), st.integers(1, size), st.just(size))),
    rules,
    st.integers(0, 99),
)
def test_a_film_no_larger_than_the_square_gets_its_mask_back(
    film: tuple[int, int, int], rule: Resize, seed: int
) -> None:
    height, width, size = film
    mask_HW = random_mask(height, width, seed)
    square_SS = standardise_mask(mask_HW, size, rule)
    np.testing.assert_array_equal(restore_mask(square_SS, Placement(height, width, size, rule)), mask_HW)


@given(sides, sides, sides, rules, st.integers(0, 99))
def test_a_square_no_larger_than_the_film_comes_back(
    height: int, width: int, size: int, rule: Resize, seed: int
) -> None:
    placement = Placement(height, width, size, rule)
    assume(height >= placement.inner_shape[0] and width >= placement.inner_shape[1])
    square_SS = np.zeros((size, size), np.uint8)
    square_SS[placement.inner] = random_mask(*placement.inner_shape, seed)
    np.testing.assert_array_equal(standardise_mask(restore_mask(square_SS, placement), size, rule), square_SS)


@given(sides, sides, sides, rules)
def test_every_size_fits_and_bars_are_empty(height: int, width: int, size: int, rule: Resize) -> None:
    film_SS, placement = standardise(np.full((height, width), 200, np.uint8), size, rule)
    mask_SS = standardise_mask(np.ones((height, width), np.uint8), size, rule)
    inside_SS = np.zeros((size, size), bool)
    inside_SS[placement.inner] = True
    np.testing.assert_array_equal(film_SS, np.where(inside_SS, 200, 0))
    np.testing.assert_array_equal(mask_SS, inside_SS)
    restored_HW = restore_mask(mask_SS, placement)
    assert restored_HW.shape == (height, width)
    assert restored_HW.all()


@pytest.mark.parametrize(
    ("height", "width", "inner"),
    [
        (400, 200, (slice(0, 100), slice(25, 75))),
        (200, 400, (slice(25, 75), slice(0, 100))),
        (1, 500, (slice(49, 50), slice(0, 100))),
    ],
)
def test_letterbox_keeps_proportions_and_centres(height: int, width: int, inner: tuple[slice, slice]) -> None:
    assert Placement(height, width, 100, "letterbox").inner == inner


@given(sides, sides, rules, st.integers(0, 99))
@settings(max_examples=40)
def test_nearest_takes_the_pixel_under_the_centre(height: int, width: int, rule: Resize, seed: int) -> None:
    mask_SS = random_mask(64, 64, seed)
    placement = Placement(height, width, 64, rule)
    rows, columns = placement.inner
    tall, wide = placement.inner_shape
    expected = [
        [
            mask_SS[rows.start + int((y + 0.5) * tall / height), columns.start + int((x + 0.5) * wide / width)]
            for x in range(width)
        ]
        for y in range(height)
    ]
    np.testing.assert_array_equal(restore_mask(mask_SS, placement), expected)


@given(st.integers(100, 400), st.integers(100, 400), rules)
@settings(max_examples=30)
def test_the_share_of_infection_survives(height: int, width: int, rule: Resize) -> None:
    y, x = np.ogrid[:height, :width]
    disk_HW = (((y / height - 0.45) ** 2 + (x / width - 0.55) ** 2) < 0.09).astype(np.uint8)
    square_SS = standardise_mask(disk_HW, 128, rule)
    tall, wide = Placement(height, width, 128, rule).inner_shape
    assert square_SS.sum() / (tall * wide) == pytest.approx(disk_HW.mean(), abs=0.015)
    assert restore_mask(square_SS, Placement(height, width, 128, rule)).mean() == pytest.approx(
        disk_HW.mean(), abs=0.015
    )


@pytest.mark.parametrize("rule", ["stretch", "letterbox"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_film_and_mask_are_laid_alike(rule: Resize, dtype: type[np.generic]) -> None:
    mask_HW = np.zeros((300, 500), np.uint8)
    mask_HW[60:140, 300:420] = 1
    film_SS, _ = standardise(mask_HW.astype(dtype) * np.iinfo(dtype).max, 128, rule)
    mask_SS = standardise_mask(mask_HW, 128, rule)
    assert center_of_mass(film_SS) == pytest.approx(center_of_mass(mask_SS), abs=0.5)
    assert np.mean((film_SS > 127) == mask_SS) > 0.99


@pytest.mark.parametrize("rule", ["stretch", "letterbox"])
def test_a_film_of_the_right_size_is_untouched(rule: Resize) -> None:
    film_HW = np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)
    square_SS, placement = standardise(film_HW, 64, rule)
    np.testing.assert_array_equal(square_SS, film_HW)
    assert not np.shares_memory(square_SS, film_HW)
    assert placement == Placement(64, 64, 64, rule)


def test_sixteen_bits_are_scaled_from_darkest_to_brightest() -> None:
    film_HW = np.random.default_rng(0).integers(900, 3000, (64, 64)).astype(np.uint16)
    low, high = film_HW.min(), film_HW.max()
    expected = np.round((film_HW.astype(np.float64) - low) / (high - low) * 255)
    for scaled in (standardise(film_HW, 64)[0], eight_bits(film_HW)):
        assert scaled.dtype == np.uint8
        assert (scaled.min(), scaled.max()) == (0, 255)
        np.testing.assert_allclose(scaled, expected, atol=1)
        assert np.mean(scaled == expected) > 0.99


def test_eight_bits_keep_their_grey_values() -> None:
    film_HW = np.full((50, 40), 77, np.uint8)
    np.testing.assert_array_equal(standardise(film_HW, 32)[0], 77)
    np.testing.assert_array_equal(eight_bits(film_HW), film_HW)


def test_a_constant_film_is_finite() -> None:
    for value in (0, 40_000):
        np.testing.assert_array_equal(standardise(np.full((9, 11), value, np.uint16), 16)[0], 0)


def test_shrinking_averages_instead_of_skipping() -> None:
    noise_HW = np.random.default_rng(0).integers(0, 256, (512, 512), dtype=np.uint8)
    shrunk_SS, _ = standardise(noise_HW, 64)
    smooth_SS = gaussian_filter(noise_HW.astype(float), 3.3)[4::8, 4::8]
    assert shrunk_SS.std() < noise_HW.std() / 4
    assert np.corrcoef(shrunk_SS.ravel(), smooth_SS.ravel())[0, 1] > 0.9


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(UsageError, match="stretch or letterbox"):
        Placement(3, 3, 3, "crop")
    with pytest.raises(UsageError, match="0 x 3"):
        standardise(np.zeros((0, 3), np.uint8))
    with pytest.raises(UsageError, match="256 x 256"):
        restore_mask(np.zeros((128, 128), np.uint8), Placement(10, 10, 256, "stretch"))

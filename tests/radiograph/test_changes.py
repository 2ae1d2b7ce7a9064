"""Each change against its formula by hand: filters as sums of weights, JPEG as rounded cosines, levels one by one."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.fft import dctn, idctn

from covseg_ray.radiograph.changes import CHANGES, change_film
from covseg_ray.radiograph.phantom import make_phantom

FILM_HW = make_phantom(3, 0, 128).image
WIDE_HW = np.ascontiguousarray(FILM_HW[10:90])  # 80 x 128
QUALITIES = (95, 90, 75, 60, 50, 40)
LEVELS_HW = np.arange(256, dtype=np.uint8).reshape(16, 16)


def changed(name: str, film_HW: NDArray[np.uint8], image_id: str = "a") -> NDArray[np.int64]:
    return change_film(name, film_HW, image_id).astype(np.int64)


@pytest.mark.parametrize("name", CHANGES)
def test_a_changed_film_keeps_its_size_and_is_another_one(name: str) -> None:
    for film_HW in (FILM_HW, WIDE_HW):
        before_HW = film_HW.copy()
        after_HW = change_film(name, film_HW, "a")
        assert (after_HW.dtype, after_HW.shape) == (np.uint8, film_HW.shape)
        assert (after_HW != before_HW).any()
        assert np.array_equal(film_HW, before_HW)
        assert np.array_equal(after_HW, change_film(name, film_HW, "a"))


@pytest.mark.parametrize("name", [name for name in CHANGES if not name.startswith(("marker", "border", "gamma"))])
def test_nothing_on_the_film_moves(name: str) -> None:
    """Shifting the changed film by a pixel either way makes it less like the film, not more."""
    film_HW, after_HW = FILM_HW.astype(np.float64), changed(name, FILM_HW).astype(np.float64)

    def correlation(rows: int, columns: int) -> float:
        inner = (slice(4, -4), slice(4, -4))
        return float(
            np.corrcoef(film_HW[inner].ravel(), np.roll(after_HW, (rows, columns), (0, 1))[inner].ravel())[0, 1]
        )

    shifts = [(rows, columns) for rows in (-1, 0, 1) for columns in (-1, 0, 1)]
    assert max(shifts, key=lambda shift: correlation(*shift)) == (0, 0)


# ITU-T T.81, table K.1: the quantisation of luminance, which libjpeg scales by the quality.
QUANTA = np.array([
    [16, 11, 10, 16, 24, 40, 51, 61], [12, 12, 14, 19, 26, 58, 60, 55], [14, 13, 16, 24, 40, 57, 69, 56],
    [14, 17, 22, 29, 51, 87, 80, 62], [18, 22, 37, 56, 68, 109, 103, 77], [24, 35, 55, 64, 81, 104, 113, 92],
    [49, 64, 78, 87, 103, 121, 120, 101], [72, 92, 95, 98, 112, 100, 103, 99],
])  # fmt: skip


def jpeg_by_hand(film_HW: NDArray[np.uint8], quality: int) -> NDArray[np.float64]:
    """The cosine coefficients of blocks of 8 x 8 pixels, rounded to multiples."""
    percent = 5000 // quality if quality < 50 else 200 - 2 * quality
    quanta = ((QUANTA * percent + 50) // 100).clip(1, 255)
    rows, columns = (length // 8 for length in film_HW.shape)
    blocks = film_HW.reshape(rows, 8, columns, 8).swapaxes(1, 2) - 128.0
    coefficients = (dctn(blocks, axes=(2, 3), norm="ortho") / quanta).round() * quanta
    decoded = idctn(coefficients, axes=(2, 3), norm="ortho") + 128
    return decoded.swapaxes(1, 2).reshape(film_HW.shape).clip(0, 255)


@pytest.mark.parametrize("quality", QUALITIES)
def test_jpeg_is_that_of_its_quality(quality: int) -> None:
    found_HW = changed(f"jpeg-{quality}", FILM_HW)
    errors = {each: np.abs(found_HW - jpeg_by_hand(FILM_HW, each)).mean() for each in QUALITIES}
    # Rounding to grey levels is 0.25; libjpeg's integer arithmetic rounds some coefficients the other way.
    assert errors[quality] < 0.5
    assert min(errors, key=errors.__getitem__) == quality


def triangle(x: float) -> float:
    return max(0.0, 1 - abs(x))


def lanczos(x: float) -> float:
    return float(np.sinc(x) * np.sinc(x / 3)) if abs(x) < 3 else 0.0


def box(x: float) -> float:
    return float(-0.5 <= x < 0.5)


def weights(kernel: Callable[[float], float], old: int, new: int) -> NDArray[np.float64]:
    """What each of ``old`` pixels gives to each of ``new``, float64 [new, old]: the kernel is widened to reduce."""
    scale = max(1.0, old / new)
    rows = [[kernel((i + 0.5 - (j + 0.5) * old / new) / scale) for i in range(old)] for j in range(new)]
    return np.array([[each / sum(row) for each in row] for row in rows])


def resized(kernel: Callable[[float], float], film_HW: NDArray[np.float64], side: int) -> NDArray[np.float64]:
    sums_SS = weights(kernel, len(film_HW), side) @ film_HW @ weights(kernel, len(film_HW), side).T
    return sums_SS.round().clip(0, 255)


@pytest.mark.parametrize("side", [160, 192, 224, 240])
@pytest.mark.parametrize(
    ("name", "down", "up"), [("bilinear", triangle, triangle), ("box", box, triangle), ("lanczos", lanczos, lanczos)]
)
def test_reductions_are_sums_of_the_filters_weights(
    name: str, side: int, down: Callable[[float], float], up: Callable[[float], float]
) -> None:
    film_HW = (FILM_HW // 2 + 60).astype(np.uint8)  # far from both ends, where Pillow clips after each direction
    expected_HW = resized(up, resized(down, film_HW.astype(np.float64), side // 2), 128)
    difference_HW = np.abs(changed(f"reduce-{side}-{name}", film_HW) - expected_HW)
    assert difference_HW.max() <= 3  # Pillow rounds after each direction
    assert difference_HW.mean() < 0.5


@pytest.mark.parametrize(
    ("name", "first", "second"),
    [
        ("reduce-224-lanczos+jpeg-90", "reduce-224-lanczos", "jpeg-90"),
        ("reduce-192-box+jpeg-75", "reduce-192-box", "jpeg-75"),
    ],
)
def test_of_two_changes_the_second_is_made_of_the_first(name: str, first: str, second: str) -> None:
    between_HW = change_film(first, FILM_HW, "a")
    assert np.array_equal(changed(name, FILM_HW), changed(second, between_HW))


def blurred_by_hand(film_HW: NDArray[np.uint8], sigma: float) -> NDArray[np.float64]:
    reach = math.ceil(6 * sigma)
    kernel = np.array([math.exp(-(x**2) / (2 * sigma**2)) for x in range(-reach, reach + 1)])
    kernel /= kernel.sum()
    padded = np.pad(film_HW.astype(np.float64), reach, mode="symmetric")
    for axis in (0, 1):
        padded = np.apply_along_axis(lambda line: np.convolve(line, kernel, mode="valid"), axis, padded)
    return padded


@pytest.mark.parametrize("sigma", [0.7, 1.2])
def test_blur_is_a_sum_of_gaussian_weights(sigma: float) -> None:
    assert np.abs(changed(f"blur-{sigma}", WIDE_HW) - blurred_by_hand(WIDE_HW, sigma)).max() < 0.51


@pytest.mark.parametrize("percent", [50, 100])
def test_sharpening_adds_the_difference_to_a_blurred_film(percent: int) -> None:
    sharp_HW = WIDE_HW + percent / 100 * (WIDE_HW - blurred_by_hand(WIDE_HW, 1.0))
    assert np.abs(changed(f"sharpen-{percent}", WIDE_HW) - sharp_HW.clip(0, 255)).max() < 0.52


@pytest.mark.parametrize("sigma", [2, 4])
def test_noise_has_its_standard_deviation_and_no_mean(sigma: int) -> None:
    grey_HW = np.full((200, 200), 128, np.uint8)
    noise_HW = changed(f"noise-{sigma}", grey_HW) - 128
    rounded = math.sqrt(sigma**2 + 1 / 12)
    assert noise_HW.std() == pytest.approx(rounded, rel=0.02)
    assert abs(noise_HW.mean()) < 4 * rounded / 200
    neighbours = np.corrcoef(noise_HW[:, :-1].ravel(), noise_HW[:, 1:].ravel())[0, 1]
    assert abs(neighbours) < 0.03


def test_noise_depends_on_the_film_and_on_the_change_alone() -> None:
    grey_HW = np.full((40, 40), 128, np.uint8)
    assert np.array_equal(changed("noise-4", grey_HW, "a"), changed("noise-4", grey_HW, "a"))
    assert (changed("noise-4", grey_HW, "a") != changed("noise-4", grey_HW, "b")).mean() > 0.5
    twice_HW = 2 * (changed("noise-2", grey_HW, "a") - 128)
    assert np.abs(changed("noise-4", grey_HW, "a") - 128 - twice_HW).max() > 4


@pytest.mark.parametrize("exponent", [0.7, 1.4])
def test_gamma_is_a_power_of_each_level(exponent: float) -> None:
    expected = [round(255 * (level / 255) ** exponent) for level in range(256)]
    assert changed(f"gamma-{exponent}", LEVELS_HW).ravel().tolist() == expected


@pytest.mark.parametrize(("percent", "clipped"), [(70, True), (150, False)])
def test_a_window_is_a_straight_line_through_the_middle_of_the_range(percent: int, clipped: bool) -> None:
    film_HW = (LEVELS_HW // 2 + 40).astype(np.uint8)  # 40 to 167, the middle 103.5
    width = 127 * percent / 100
    expected = [(level - (103.5 - width / 2)) * 255 / width for level in film_HW.ravel().tolist()]
    found = changed(f"window-{percent}", film_HW).ravel()
    assert np.abs(found - np.clip(expected, 0, 255)).max() <= 0.501
    assert (found == 0).any() == (found == 255).any() == clipped


@pytest.mark.parametrize("number", [64, 32])
def test_levels_are_so_many_at_equal_distances_and_the_nearest(number: int) -> None:
    found = changed(f"levels-{number}", LEVELS_HW).ravel()
    allowed = [round(255 * step / (number - 1)) for step in range(number)]
    assert sorted(set(found.tolist())) == allowed
    nearest = [min(abs(level - each) for each in allowed) for level in range(256)]
    assert (np.abs(found - np.arange(256)) <= np.array(nearest) + 1).all()  # those of allowed are rounded


@pytest.mark.parametrize(("name", "level"), [("border-black", 0), ("border-white", 255)])
def test_a_border_covers_a_twentieth_of_each_side(name: str, level: int) -> None:
    film_HW = np.full((100, 200), 90, np.uint8)
    found_HW = changed(name, film_HW)
    assert (found_HW[5:-5, 10:-10] == 90).all()
    assert (found_HW == level).sum() == 100 * 200 - 90 * 180


def test_a_marker_is_one_letter_in_any_corner_and_nothing_else() -> None:
    film_HW = np.zeros((96, 120), np.uint8)
    corners = set()
    for index in range(40):
        found_HW = changed("marker", film_HW, f"film {index}")
        rows, columns = np.nonzero(found_HW)
        assert set(found_HW[rows, columns].tolist()) == {250}
        assert (np.ptp(rows) + 1, np.ptp(columns) + 1) == (8, 8)  # 96 / 12
        assert len(rows) == 8 * 2 + 6 * 2  # two strokes of 2 pixels, which share a corner
        assert {rows.min(), 95 - rows.max()} & {4}
        assert {columns.min(), 119 - columns.max()} & {4}
        corners.add((int(rows.min()), int(columns.min())))
    assert len(corners) == 4


def test_an_unknown_change_is_refused() -> None:
    with pytest.raises(KeyError):
        change_film("jpeg-74", FILM_HW, "a")

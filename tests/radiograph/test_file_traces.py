from __future__ import annotations

import cmath
import io
import math

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from covseg_ray.radiograph.file_traces import file_traces
from covseg_ray.radiograph.phantom import make_phantom

NOISE = np.random.default_rng(4).integers(0, 256, (24, 20), np.uint8)


def jpeg(film_HW: NDArray[np.uint8], quality: int) -> NDArray[np.uint8]:
    buffer = io.BytesIO()
    Image.fromarray(film_HW).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer))


def resized(film_HW: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    small = Image.fromarray(film_HW).resize((side, side), Image.Resampling.BILINEAR)
    return np.asarray(small.resize(film_HW.shape[::-1], Image.Resampling.BILINEAR))


def test_spectrum_is_that_of_a_transform_written_out() -> None:
    """Fourier's sum for each frequency, over pixels weighted by Hann's window."""
    height, width = NOISE.shape
    windowed = [
        [
            (float(NOISE[y, x]) - float(NOISE.mean()))
            * math.sin(math.pi * y / (height - 1)) ** 2
            * math.sin(math.pi * x / (width - 1)) ** 2
            for x in range(width)
        ]
        for y in range(height)
    ]
    high, below = [], []
    for v in range(height):
        for u in range(width):
            frequency = max(min(v, height - v) / height, min(u, width - u) / width)
            if 0.45 <= frequency <= 0.5 or 0.35 <= frequency <= 0.43:
                total = sum(
                    windowed[y][x] * cmath.exp(-2j * math.pi * (v * y / height + u * x / width))
                    for y in range(height)
                    for x in range(width)
                )
                (high if frequency >= 0.45 else below).append(abs(total) ** 2)
    expected = (sum(high) / len(high)) / (sum(below) / len(below))
    assert file_traces(NOISE)["spectrum"] == pytest.approx(expected, rel=1e-9)


def test_grid_is_that_of_a_loop_over_neighbours() -> None:
    means = []
    for film_HW in (NOISE, NOISE.T):
        across, elsewhere = [], []
        for row in range(len(film_HW) - 1):
            for column in range(film_HW.shape[1]):
                step = abs(int(film_HW[row + 1, column]) - int(film_HW[row, column]))
                (across if row % 8 == 7 else elsewhere).append(step)
        means.append((sum(across) / len(across), sum(elsewhere) / len(elsewhere)))
    expected = sum(each[0] for each in means) / sum(each[1] for each in means)
    assert file_traces(NOISE)["grid"] == pytest.approx(expected, rel=1e-12)


def test_levels_and_mean() -> None:
    film_HW = np.full((16, 16), 7, np.uint8)
    film_HW[3, :4] = (0, 9, 9, 255)
    found = file_traces(film_HW)
    assert found["levels"] == 4 / 256
    assert found["mean"] == pytest.approx((252 * 7 + 0 + 9 + 9 + 255) / 256)


def test_borders_count_lines_of_one_value_at_the_edges_alone() -> None:
    """Two rows above, one below, three columns on the left; a constant row inside the film does not count."""
    film_HW = np.random.default_rng(1).integers(1, 255, (20, 30), np.uint8)
    film_HW[:, :3] = 9
    film_HW[:2] = 0
    film_HW[-1] = 255
    film_HW[10] = 4
    # The rows above and below cross the columns on the left: these no longer hold one value.
    assert file_traces(film_HW)["borders"] == 3 / 50
    framed_HW = np.zeros((20, 30), np.uint8)
    framed_HW[2:-1, 3:] = np.random.default_rng(1).integers(1, 255, (17, 27), np.uint8)
    assert file_traces(framed_HW)["borders"] == 6 / 50


def test_a_constant_film_has_no_trace() -> None:
    found = file_traces(np.full((32, 16), 40, np.uint8))
    assert found == {"spectrum": 0.0, "levels": 1 / 256, "mean": 40.0, "grid": 1.0, "borders": 1.0}


def test_blocks_of_eight_pixels_alone_are_all_grid() -> None:
    blocks_HW = np.kron(np.random.default_rng(2).integers(0, 256, (4, 4), np.uint8), np.ones((8, 8), np.uint8))
    assert file_traces(blocks_HW)["grid"] == math.inf


@pytest.mark.parametrize("index", range(4))
def test_compression_and_reduction_leave_their_trace(index: int) -> None:
    film_HW = make_phantom(3, index, 256).image
    found = file_traces(film_HW)
    assert file_traces(jpeg(film_HW, 40))["grid"] > 1.2 * found["grid"]
    assert file_traces(resized(film_HW, 128))["spectrum"] < 0.7 * found["spectrum"]

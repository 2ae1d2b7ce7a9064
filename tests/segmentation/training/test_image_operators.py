"""Reduction, blur and JPEG on tensors, beside Pillow and SciPy."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from covseg_ray.segmentation.training.image_operators import FILTERS, blurring, jpeg, resampling

SIDE = 96
PILLOW = {
    "box": Image.Resampling.BOX,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


def textured(height: int = SIDE, width: int = SIDE) -> NDArray[np.uint8]:
    """Grey levels that stay away from 0 and 255: Pillow cuts there between its two passes."""
    noise_HW = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=(height, width)), 1.5)
    return (128 + noise_HW / np.abs(noise_HW).max() * 90).astype(np.uint8)


def test_filters_are_all_compared() -> None:
    assert PILLOW.keys() == FILTERS.keys()


@pytest.mark.parametrize("name", FILTERS)
@pytest.mark.parametrize(("before", "after"), [(96, 48), (96, 64), (96, 71), (96, 95), (48, 96), (71, 96)])
def test_resampling_is_pillows(name: str, before: int, after: int) -> None:
    film_BB = textured()[:before, :before]
    film_SS = torch.zeros(SIDE, SIDE)
    film_SS[:before, :before] = torch.from_numpy(film_BB)
    (matrix_SS,) = resampling(torch.tensor([before]), torch.tensor([after]), name, SIDE)
    found_SS = (matrix_SS @ film_SS @ matrix_SS.T).numpy()
    expected_AA = np.asarray(Image.fromarray(film_BB).resize((after, after), PILLOW[name])).astype(float)
    assert np.abs(found_SS[:after, :after] - expected_AA).max() <= 1.5  # Pillow rounds after each of two passes
    assert np.array_equal(found_SS[after:], np.repeat(found_SS[after - 1 : after], SIDE - after, axis=0))


def test_each_film_has_a_matrix_of_its_own() -> None:
    after_N = torch.tensor([40, SIDE, 77])
    together_NSS = resampling(torch.full((3,), SIDE), after_N, "lanczos", SIDE)
    for matrix_SS, after in zip(together_NSS, after_N, strict=True):
        assert torch.equal(matrix_SS, resampling(torch.tensor([SIDE]), after[None], "lanczos", SIDE)[0])
    assert torch.allclose(together_NSS[1], torch.eye(SIDE), atol=1e-6)


@pytest.mark.parametrize("sigma", [0.3, 0.7, 1.2])
def test_blurring_is_scipys(sigma: float) -> None:
    film_SS = textured().astype(np.float32)
    (matrix_SS,) = blurring(torch.tensor([sigma]), SIDE, 1.2)
    found_SS = (matrix_SS @ torch.from_numpy(film_SS) @ matrix_SS.T).numpy()
    expected_SS = ndimage.gaussian_filter(film_SS, sigma, mode="nearest", truncate=4.8 / sigma)
    assert np.abs(found_SS - expected_SS).max() < 0.05


def test_a_blur_of_nothing_changes_nothing() -> None:
    assert torch.equal(blurring(torch.zeros(1), SIDE, 1.2)[0], torch.eye(SIDE))


@pytest.mark.parametrize("quality", [1, 30, 49, 50, 75, 95, 100])
@pytest.mark.parametrize("shape", [(96, 96), (90, 83)], ids=["whole blocks", "cut blocks"])
def test_jpeg_is_that_of_libjpeg(quality: int, shape: tuple[int, int]) -> None:
    film_HW = textured(*shape)
    data = io.BytesIO()
    Image.fromarray(film_HW).save(data, "JPEG", quality=quality)
    expected_HW = np.asarray(Image.open(data)).astype(float)
    found_HW = jpeg(torch.from_numpy(film_HW)[None].float(), torch.tensor([quality]))[0].numpy()
    lost = np.abs(expected_HW - film_HW).mean()
    assert np.abs(found_HW - expected_HW).mean() < max(
        0.3, 0.1 * lost
    )  # libjpeg transforms in integers: ties fall otherwise
    assert abs(np.abs(found_HW - film_HW).mean() - lost) < max(0.2, 0.05 * lost)


def test_each_film_has_its_quality() -> None:
    films_NHW = torch.from_numpy(np.stack([textured()] * 3)).float()
    together_NHW = jpeg(films_NHW, torch.tensor([20, 60, 95]))
    for film_HW, found_HW, quality in zip(films_NHW, together_NHW, (20, 60, 95), strict=True):
        assert torch.equal(found_HW, jpeg(film_HW[None], torch.tensor([quality]))[0])

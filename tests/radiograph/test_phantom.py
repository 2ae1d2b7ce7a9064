from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from scipy.ndimage import label as components

from covseg_ray.errors import UsageError
from covseg_ray.radiograph.phantom import Phantom, make_phantom


@pytest.fixture(scope="module")
def series() -> list[Phantom]:
    return [make_phantom(11, index, size=128) for index in range(160)]


def test_same_arguments_same_pixels() -> None:
    first, again = make_phantom(3, 8), make_phantom(3, 8)
    for name in ("image", "infection", "lung"):
        np.testing.assert_array_equal(getattr(first, name), getattr(again, name))
    assert first.image.shape == (256, 256)
    for other in (make_phantom(3, 9), make_phantom(4, 8)):
        assert np.mean(other.image != first.image) > 0.5


def test_labels_cycle(series: list[Phantom]) -> None:
    assert Counter(film.label for film in series) == {"COVID-19": 80, "Non-COVID": 40, "Normal": 40}


def test_masks_are_binary_and_infection_lies_in_the_lung(series: list[Phantom]) -> None:
    for film in series:
        assert film.image.dtype == film.infection.dtype == film.lung.dtype == np.uint8
        assert set(np.unique(film.infection)) | set(np.unique(film.lung)) <= {0, 1}
        assert not (film.infection & ~film.lung & 1).any()
        assert film.infection.any() == (film.label == "COVID-19")


def test_two_lungs_of_human_proportion(series: list[Phantom]) -> None:
    for film in series:
        names, count = components(film.lung)
        areas = np.sort(np.bincount(names.ravel())[1:])[::-1]
        assert count >= 2
        assert areas[:2].sum() > 0.98 * film.lung.sum()
        assert 0.12 < film.lung.mean() < 0.4
    left_half = np.mean([film.lung[:, :64].sum() for film in series])
    right_half = np.mean([film.lung[:, 64:].sum() for film in series])
    assert left_half > 1.02 * right_half  # the heart takes its place from the lung on the image's right


def test_lungs_are_dark_and_opacities_bright(series: list[Phantom]) -> None:
    for film in series:
        clear = film.image[(film.lung == 1) & (film.infection == 0)].mean()
        middle = film.image[64:96, 58:70].mean()
        assert clear < middle - 20
    gains = [
        film.image[film.infection == 1].mean() - film.image[(film.lung == 1) & (film.infection == 0)].mean()
        for film in series
        if film.label == "COVID-19"
    ]
    assert np.mean(gains) > 20
    assert np.mean(np.array(gains) > 0) > 0.95


def test_share_of_infection_varies(series: list[Phantom]) -> None:
    shares = np.array([film.infection.sum() / film.lung.sum() for film in series if film.label == "COVID-19"])
    assert shares.min() < 0.2
    assert shares.max() > 0.7
    assert 0.35 < np.median(shares) < 0.6


def test_greys_fill_the_range_without_clipping(series: list[Phantom]) -> None:
    for film in series:
        low, high = np.percentile(film.image, [2, 98])
        assert high - low > 80
        assert np.mean(film.image == 255) < 0.2


def test_the_size_can_be_chosen() -> None:
    film = make_phantom(0, 0, size=48)
    assert film.image.shape == film.lung.shape == film.infection.shape == (48, 48)
    with pytest.raises(UsageError, match="32"):
        make_phantom(0, 0, size=8)

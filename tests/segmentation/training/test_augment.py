from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from scipy import ndimage

from covseg_ray.segmentation.training.augment import (
    AUGMENTATIONS,
    Augmentation,
    adjust_gamma,
    augment,
    augment_maps,
    move,
)

STILL = Augmentation(flip_horizontal=0, flip_vertical=0, probability=0)


def _noise(films: int = 6, size: int = 32) -> torch.Tensor:
    return torch.randint(0, 256, (films, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def _blobs(films: int = 12, size: int = 96) -> torch.Tensor:
    smooth = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=(films, size, size)), (0, 9, 9))
    return torch.from_numpy((smooth > 0).astype(np.uint8))


def test_flips_are_numpys_and_exact():
    images, targets = _noise(), _noise() % 3
    for config, axis in ((Augmentation(1, 0, probability=0), 2), (Augmentation(0, 1, probability=0), 1)):
        moved, moved_targets = augment(images, targets, config, seed=5)
        assert np.array_equal(moved.numpy(), np.flip(images.numpy(), axis))
        assert np.array_equal(moved_targets.numpy(), np.flip(targets.numpy(), axis))


def test_flips_are_drawn_for_each_film_with_their_probability():
    images = torch.arange(4, dtype=torch.uint8).reshape(1, 2, 2).repeat(4000, 1, 1)
    moved, _ = augment(images, images, Augmentation(0.3, 0.6, probability=0), seed=0)
    corner = moved[:, 0, 0].numpy()
    shares = [np.mean(corner == value) for value in range(4)]
    np.testing.assert_allclose(shares, [0.7 * 0.4, 0.3 * 0.4, 0.7 * 0.6, 0.3 * 0.6], atol=0.03)


def test_none_changes_nothing_and_inputs_are_never_written():
    images, targets = _noise(), _noise() % 2
    kept = images.clone(), targets.clone()
    same = augment(images, targets, AUGMENTATIONS["none"], seed=1)
    assert torch.equal(same[0], images)
    assert torch.equal(same[1], targets)
    augment(images, targets, Augmentation(1, 1, probability=1), seed=1)
    assert torch.equal(images, kept[0])
    assert torch.equal(targets, kept[1])


def test_seed_decides():
    images, targets = _noise(), _noise() % 2
    first, again, other = (augment(images, targets, AUGMENTATIONS["paper"], seed) for seed in (3, 3, 4))
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert not torch.equal(first[0], other[0])


def test_mask_and_film_move_together():
    masks = _blobs()
    images, targets = augment(masks * 255, masks, Augmentation(probability=1), seed=2)
    assert not torch.equal(targets, masks)
    assert set(targets.unique().tolist()) == {0, 1}
    inside = ndimage.binary_erosion(targets.numpy(), np.ones((1, 3, 3)))
    outside = ~ndimage.binary_dilation(targets.numpy(), np.ones((1, 3, 3)))
    assert (images.numpy()[inside] > 127).mean() > 0.999
    assert (images.numpy()[outside] < 128).mean() > 0.999


@pytest.mark.parametrize("degrees", [15.0, -40.0])
def test_rotation_agrees_with_scipy(degrees: float):
    film = ndimage.gaussian_filter(np.random.default_rng(1).random((64, 64)) * 255 * 6, 3).clip(0, 255).astype(np.uint8)
    angle = math.radians(degrees)
    theta = torch.tensor([[[math.cos(angle), math.sin(angle), 0], [-math.sin(angle), math.cos(angle), 0]]])
    moved = move(torch.from_numpy(film)[None], theta, "bilinear")[0].numpy().astype(int)
    expected = ndimage.rotate(film.astype(np.float64), -degrees, reshape=False, order=1, mode="reflect")
    assert np.abs(moved - expected).max() <= 1.0


def test_shift_reflects_at_the_edge():
    film = torch.arange(8, dtype=torch.uint8).reshape(1, 1, 8).repeat(1, 8, 1)
    theta = torch.tensor([[[1.0, 0, 2 * 2 / 8], [0, 1.0, 0]]])
    assert move(film, theta, "nearest")[0, 0].tolist() == [2, 3, 4, 5, 6, 7, 7, 6]


def test_only_rotation_on_a_film_that_is_not_square_keeps_its_proportions():
    film = np.zeros((40, 80), np.uint8)
    film[15:25, 35:45] = 1
    config = Augmentation(0, 0, shift=0, scale=0, rotate=25, probability=1)
    for seed in range(5):
        _, moved = augment(torch.from_numpy(film)[None], torch.from_numpy(film)[None], config, seed)
        assert moved.sum().item() == pytest.approx(100, abs=8)


def test_movement_stays_in_its_limits():
    """The area of a centred square after scaling by at most a tenth, and its centre after a shift of a sixteenth."""
    film = torch.zeros(200, 64, 64, dtype=torch.uint8)
    film[:, 22:42, 22:42] = 1
    _, scaled = augment(film, film, Augmentation(0, 0, shift=0, scale=0.1, rotate=0, probability=1), seed=0)
    sides = scaled.sum((1, 2)).double().sqrt() / 20
    assert 0.85 <= sides.min() < 0.93
    assert 1.07 < sides.max() <= 1.15
    _, shifted = augment(film, film, Augmentation(0, 0, shift=0.0625, scale=0, rotate=0, probability=1), seed=0)
    columns = torch.stack([mask.nonzero()[:, 1].double().mean() for mask in shifted]) - 31.5
    assert columns.abs().max() <= 4.5
    assert columns.min() < -3
    assert columns.max() > 3


def test_bend_is_the_gamma_curve():
    film = np.arange(256, dtype=np.uint8).reshape(1, 16, 16).repeat(3, 0)
    bent = adjust_gamma(torch.from_numpy(film), torch.tensor([1.0, 0.5, 1.7])).numpy()
    for each, exponent in zip(bent, (1.0, 0.5, 1.7), strict=True):
        assert np.abs(each - 255 * (film[0] / 255) ** exponent).max() <= 0.5 + 1e-4
    assert np.array_equal(bent[0], film[0])


def test_contrast_is_drawn_for_each_film_and_leaves_masks_alone():
    """128 becomes 255 (128 / 255)^g with log g uniform in -0.4 to 0.4."""
    films = torch.full((2000, 4, 4), 128, dtype=torch.uint8)
    config = Augmentation(0, 0, shift=0, scale=0, rotate=0, gamma=0.4, probability=1)
    bent, targets = augment(films, films % 3, config, seed=0)
    assert torch.equal(targets, films % 3)
    logs = np.log(np.log(bent[:, 0, 0].numpy() / 255) / np.log(128 / 255))
    assert np.abs(logs).max() <= 0.41
    np.testing.assert_allclose(np.quantile(logs, [0.25, 0.5, 0.75]), [-0.2, 0, 0.2], atol=0.03)


@pytest.mark.parametrize("name", ["chest", "mild"])
def test_no_film_of_a_chest_stands_on_its_head(name: str):
    films = torch.zeros(500, 64, 64, dtype=torch.uint8)
    films[:, 8:16, 24:40] = 1
    _, moved = augment(films, films, AUGMENTATIONS[name], seed=4)
    rows = torch.stack([mask.nonzero()[:, 0].double().mean() for mask in moved])
    assert rows.max() < 32


@pytest.mark.parametrize("name", ["flips", "paper", "chest", "mild", "archive"])
def test_maps_move_with_the_films(name: str):
    """As each of them would as a film; changes of grey levels and of files leave them alone."""
    config = dataclasses.replace(AUGMENTATIONS[name], gamma=0.0, archive=False)
    maps = torch.stack([_noise(), _noise().flip(0)], dim=1)
    moved = augment_maps(maps, AUGMENTATIONS[name], seed=8)
    assert moved.dtype == torch.uint8
    for channel in range(2):
        expected, _ = augment(maps[:, channel], maps[:, channel], config, seed=8)
        assert torch.equal(moved[:, channel], expected)
    assert not torch.equal(moved, maps)


def test_a_map_of_the_mask_stays_the_mask_but_for_its_edge():
    masks = _blobs()
    moved = augment_maps((masks * 255)[:, None], AUGMENTATIONS["chest"], seed=3)[:, 0]
    _, moved_masks = augment(masks * 255, masks, AUGMENTATIONS["chest"], seed=3)
    assert (moved_masks != masks).float().mean() > 0.05
    assert ((moved >= 128).to(torch.uint8) == moved_masks).float().mean() > 0.995
    inside = (moved == 0) | (moved == 255)
    assert torch.equal(moved[inside] == 255, moved_masks[inside] == 1)

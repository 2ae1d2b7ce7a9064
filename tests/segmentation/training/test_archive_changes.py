"""Changes as archives make them, each beside a computation with NumPy, Pillow or SciPy; and how often each is drawn."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage

from covseg_ray.radiograph.phantom import make_phantom
from covseg_ray.segmentation.training import archive_changes
from covseg_ray.segmentation.training.archive_changes import Changes, apply, change_files, draw, levels
from covseg_ray.segmentation.training.augment import AUGMENTATIONS, augment

SIDE = 96


def films(count: int = 2, side: int = SIDE) -> torch.Tensor:
    return torch.from_numpy(np.stack([make_phantom(0, index, side).image for index in range(count)]))


def unchanged(count: int = 2, side: int = SIDE) -> Changes:
    return Changes(
        levels_N256=torch.arange(256.0).expand(count, 256),
        sides_N=torch.full((count,), side),
        filters=("bilinear", "bilinear"),
        qualities_N2=torch.zeros(count, 2, dtype=torch.int64),
        blur_N=torch.ones(count),
        sharpening_N=torch.zeros(count),
        noise_N=torch.zeros(count),
        borders_N4=torch.zeros(count, 4, dtype=torch.int64),
        frame_N=torch.zeros(count),
        marker_N3=torch.zeros(count, 3, dtype=torch.int64),
        letters_N53=torch.ones(count, 5, 3, dtype=torch.bool),
    )


def changed(images_NSS: torch.Tensor, noise_NSS: torch.Tensor | None = None, **parameters: object) -> torch.Tensor:
    count, side = images_NSS.shape[:2]
    noise_NSS = torch.zeros(count, side, side) if noise_NSS is None else noise_NSS
    return apply(images_NSS, unchanged(count, side)._replace(**parameters), noise_NSS)


def test_no_change_keeps_every_pixel() -> None:
    assert torch.equal(changed(films()), films())


def test_levels_are_those_of_the_table() -> None:
    table_N256 = torch.stack([255.0 - torch.arange(256), torch.arange(256.0)])
    found_NSS = changed(films(), levels_N256=table_N256)
    assert torch.equal(found_NSS[0], 255 - films()[0])
    assert torch.equal(found_NSS[1], films()[1])


def test_a_reduced_film_is_pillows_reduced_and_enlarged() -> None:
    images_NSS = films()
    found_NSS = changed(images_NSS, sides_N=torch.tensor([64, SIDE]), filters=("box", "bilinear"))
    film = Image.fromarray(images_NSS[0].numpy())
    small = film.resize((64, 64), Image.Resampling.BOX)
    expected_SS = np.asarray(small.resize((SIDE, SIDE), Image.Resampling.BILINEAR)).astype(int)
    assert np.abs(found_NSS[0].numpy().astype(int) - expected_SS).max() <= 2
    assert torch.equal(found_NSS[1], images_NSS[1])


def test_a_film_is_compressed_while_reduced_and_at_the_end() -> None:
    images_NSS = films()
    found_NSS = changed(
        images_NSS,
        sides_N=torch.tensor([64, SIDE]),
        filters=("box", "bicubic"),
        qualities_N2=torch.tensor([[50, 0], [0, 60]]),
    )
    small = Image.fromarray(images_NSS[0].numpy()).resize((64, 64), Image.Resampling.BOX)
    restored, full = (SIDE, SIDE), Image.fromarray(images_NSS[1].numpy())
    expected = [_jpeg(small, 50).resize(restored, Image.Resampling.BICUBIC), _jpeg(full, 60)]
    uncompressed = [small.resize(restored, Image.Resampling.BICUBIC), full]
    for found_SS, film, before in zip(found_NSS.numpy().astype(float), expected, uncompressed, strict=True):
        lost = np.abs(np.asarray(film, float) - np.asarray(before)).mean()
        assert np.abs(found_SS - np.asarray(film)).mean() < lost / 3  # Pillow rounds the reduced film first
        assert lost > 2


def _jpeg(film: Image.Image, quality: int) -> Image.Image:
    data = io.BytesIO()
    film.save(data, "JPEG", quality=quality)
    return Image.open(data)


def test_blur_and_sharpening_are_scipys() -> None:
    images_NSS = films(3)
    found_NSS = changed(images_NSS, blur_N=torch.tensor([1.2, 1.0, 1.0]), sharpening_N=torch.tensor([-1.0, 0.0, 0.5]))
    blurred_SS = ndimage.gaussian_filter(images_NSS[0].numpy().astype(float), 1.2, mode="nearest")
    assert np.abs(found_NSS[0].numpy() - blurred_SS).max() <= 0.6
    assert torch.equal(found_NSS[1], images_NSS[1])
    film_SS = images_NSS[2].numpy().astype(float)
    for axis in (0, 1):
        film_SS += 0.5 * (film_SS - ndimage.gaussian_filter1d(film_SS, 1.0, axis=axis, mode="nearest"))
    assert np.abs(found_NSS[2].numpy() - film_SS.clip(0, 255)).max() <= 0.6


def test_noise_is_added_by_its_deviation() -> None:
    grey_NSS = torch.full((2, SIDE, SIDE), 128, dtype=torch.uint8)
    noise_NSS = torch.randn(2, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    found_NSS = changed(grey_NSS, noise_NSS, noise_N=torch.tensor([0.0, 4.0]))
    assert torch.equal(found_NSS[0], grey_NSS[0])
    assert np.array_equal(found_NSS[1].numpy(), np.round(128 + 4 * noise_NSS[1].numpy()).clip(0, 255))


def test_a_border_covers_its_sides_and_nothing_else() -> None:
    images_NSS = films()
    found_NSS = changed(
        images_NSS, borders_N4=torch.tensor([[3, 0, 5, 2], [0, 4, 0, 0]]), frame_N=torch.tensor([255.0, 0.0])
    )
    expected_NSS = images_NSS.clone()
    expected_NSS[0, :3], expected_NSS[0, :, :5], expected_NSS[0, :, -2:], expected_NSS[1, -4:] = 255, 255, 255, 0
    assert torch.equal(found_NSS, expected_NSS)


def test_a_marker_is_its_letter_in_white_squares() -> None:
    images_NSS, letter_53 = films(), torch.rand(5, 3, generator=torch.Generator().manual_seed(1)) < 0.5
    found_NSS = changed(
        images_NSS, marker_N3=torch.tensor([[10, 70, 4], [10, 70, 0]]), letters_N53=torch.stack([letter_53, letter_53])
    )
    expected_NSS = images_NSS.numpy().copy()
    expected_NSS[0, 10:30, 70:82][np.kron(letter_53.numpy(), np.ones((4, 4), bool))] = 255
    assert np.array_equal(found_NSS.numpy(), expected_NSS)


def test_levels_of_a_narrow_a_wide_and_a_coarse_window() -> None:
    cut_N2 = torch.tensor([[0.2, 0.1], [0.2, 0.1], [0.0, 0.0]])
    found_N256 = levels(cut_N2, torch.tensor([False, True, False]), torch.tensor([256, 256, 3])).numpy()
    grey_256 = np.arange(256) / 255
    expected_N256 = [((grey_256 - 0.2) / 0.7).clip(0, 1), 0.2 + 0.7 * grey_256, np.round(grey_256 * 2) / 2]
    np.testing.assert_allclose(found_N256, np.round(np.array(expected_N256) * 255), atol=1)
    assert len(np.unique(found_N256[2])) == 3


def test_changes_are_drawn_as_often_as_said_and_within_their_bounds() -> None:
    found = draw(8000, 256, torch.Generator().manual_seed(0))
    shares = {
        archive_changes.REDUCED: (found.sides_N < 256).float().mean(),
        archive_changes.BLURRED: (found.sharpening_N == -1).float().mean(),
        archive_changes.NOISY: (found.noise_N > 0).float().mean(),
        archive_changes.BORDERED: (found.borders_N4 > 0).any(1).float().mean(),
        archive_changes.MARKED: (found.marker_N3[:, 2] > 0).float().mean(),
        archive_changes.COMPRESSED: (found.qualities_N2 > 0).float().mean(),
    }
    for wanted, share in shares.items():
        assert float(share) == pytest.approx(wanted, abs=0.02)
    assert found.sides_N.min() >= 128
    assert int(found.qualities_N2[found.qualities_N2 > 0].min()) == archive_changes.LEAST_QUALITY
    assert int(found.qualities_N2.max()) == archive_changes.MOST_QUALITY
    ends_N2 = found.marker_N3[:, :2] + found.marker_N3[:, 2:] * torch.tensor([5, 3])
    assert found.marker_N3.min() >= 0
    assert ends_N2.max() <= 256


def test_the_seed_decides_and_the_input_stays() -> None:
    images_NSS = films(8)
    first, again, other = (change_files(images_NSS, seed) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(images_NSS, films(8))
    assert first.dtype == torch.uint8


def test_a_film_is_changed_whatever_its_neighbours_are() -> None:
    images_NSS = films(4)
    others_NSS = torch.cat([images_NSS[:1], 255 - images_NSS[1:]])
    assert torch.equal(change_files(images_NSS, 3)[0], change_files(others_NSS, 3)[0])


def test_archive_changes_films_alone_and_then_moves_both_as_mild_does() -> None:
    images_NSS, targets_NSS = films(8), films(8) % 2
    found_NSS, found_targets_NSS = augment(images_NSS, targets_NSS, AUGMENTATIONS["archive"], 5)
    expected_NSS, expected_targets_NSS = augment(change_files(images_NSS, 5), targets_NSS, AUGMENTATIONS["mild"], 5)
    assert torch.equal(found_NSS, expected_NSS)
    assert torch.equal(found_targets_NSS, expected_targets_NSS)

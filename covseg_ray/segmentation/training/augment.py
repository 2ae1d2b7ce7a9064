"""Random flips, shifts, scalings and rotations of films and their masks together, and of films' contrast; one draw for
each film.

Every parameter is drawn on the CPU from one seed and applied on the device that holds the films, so the same seed
gives the same augmentation everywhere. Nothing waits for that device.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from covseg_ray.segmentation.training.archive_changes import change_files


@dataclass(frozen=True, slots=True)
class Augmentation:
    """Random changes of a film.

    ``flip_horizontal`` and ``flip_vertical`` are probabilities. With ``probability`` a film is moved: shifted by up to
    ``shift`` of its side, scaled by a factor of 1 - ``scale`` to 1 + ``scale``, rotated by up to ``rotate`` degrees,
    each uniformly to both sides. What comes in from outside the film is its reflection. With ``probability`` again its
    grey values v are changed to 255 (v / 255)^g, log g uniform to both sides up to ``gamma``. With ``archive`` the film
    first goes through what archives do to files: `covseg_ray.segmentation.training.archive_changes`.
    """

    flip_horizontal: float = 0.5
    flip_vertical: float = 0.5
    shift: float = 0.0625
    scale: float = 0.1
    rotate: float = 15.0
    gamma: float = 0.0
    probability: float = 0.5
    archive: bool = False


_MILD = Augmentation(flip_vertical=0.0, shift=0.03, scale=0.06, rotate=5.0, gamma=0.15, probability=0.5)
# By the name in a job: ``paper`` flips, shifts, scales and rotates; ``chest`` moves more and changes gamma, without a
# vertical flip; ``mild`` changes as much as between two films of one patient; ``archive`` is ``mild`` after changes
# as archives make them.
AUGMENTATIONS = {
    "none": Augmentation(flip_horizontal=0.0, flip_vertical=0.0, probability=0.0),
    "flips": Augmentation(probability=0.0),
    "paper": Augmentation(),
    "chest": Augmentation(flip_vertical=0.0, shift=0.08, scale=0.2, rotate=20.0, gamma=0.4, probability=0.8),
    "mild": _MILD,
    "archive": replace(_MILD, archive=True),
}


def augment(images_NHW: Tensor, targets_NHW: Tensor, config: Augmentation, seed: int) -> tuple[Tensor, Tensor]:
    """Films and masks (both uint8 ``[N, H, W]``, one device) under the same random movement.

    Films are resampled bilinearly, masks by nearest neighbour; a film that is not moved stays as it is. The inputs are
    not changed. All films are resampled in one call, moved or not: that is the fewest kernels on a GPU.
    """
    drawn = _draw(len(images_NHW), seed)
    if config.archive:
        images_NHW = change_files(images_NHW, seed)
    if config.gamma:
        bent_N = drawn.contrast_N2[:, 0] < config.probability
        exponents_N = torch.exp((drawn.contrast_N2[:, 1] * 2 - 1) * config.gamma)
        images_NHW = adjust_gamma(images_NHW, torch.where(bent_N, exponents_N, 1.0))
    return _moved(images_NHW, drawn, config, "bilinear"), _moved(targets_NHW, drawn, config, "nearest")


def augment_maps(maps_NCHW: Tensor, config: Augmentation, seed: int) -> Tensor:
    """Maps of films, uint8 ``[N, C, H, W]``, moved as `augment` moves the films with the same seed, bilinearly."""
    drawn = _draw(len(maps_NCHW), seed)
    return torch.stack([_moved(each_NHW, drawn, config, "bilinear") for each_NHW in maps_NCHW.unbind(1)], dim=1)


class _Drawn(NamedTuple):
    """Draws for N films, on the CPU: in 0 to 1, those of the movement in -1 to 1."""

    chance_N3: Tensor
    movement_N4: Tensor
    contrast_N2: Tensor


def _draw(films: int, seed: int) -> _Drawn:
    generator = torch.Generator().manual_seed(seed)
    chance_N3 = torch.rand(films, 3, generator=generator)
    movement_N4 = torch.rand(films, 4, generator=generator) * 2 - 1
    return _Drawn(chance_N3, movement_N4, torch.rand(films, 2, generator=generator))


def _moved(films_NHW: Tensor, drawn: _Drawn, config: Augmentation, interpolation: str) -> Tensor:
    """Films or masks, flipped and then moved where that was drawn."""
    for axis, probability in ((2, config.flip_horizontal), (1, config.flip_vertical)):
        if probability:
            flipped_N11 = _on(films_NHW, (drawn.chance_N3[:, axis - 1] < probability)[:, None, None])
            films_NHW = torch.where(flipped_N11, films_NHW.flip(axis), films_NHW)
    if not config.probability:
        return films_NHW
    height, width = films_NHW.shape[1:]
    moving_N11 = (drawn.chance_N3[:, 2] < config.probability)[:, None, None]
    theta_N23 = torch.where(moving_N11, _affine(drawn.movement_N4, config, height / width), torch.eye(2, 3))
    return move(films_NHW, _on(films_NHW, theta_N23), interpolation)


def move(batch_NHW: Tensor, theta_N23: Tensor, interpolation: str) -> Tensor:
    """Resample uint8 ``[N, H, W]`` at the places ``theta`` gives, reflecting about the film's edge.

    ``theta`` maps an output place to the input place it is read from, in torch's ``affine_grid`` coordinates: -1 and 1
    are the outer edges of the film.
    """
    films_N1HW = batch_NHW.unsqueeze(1).float()
    grid = F.affine_grid(theta_N23, list(films_N1HW.shape), align_corners=False)
    moved = F.grid_sample(films_N1HW, grid, mode=interpolation, padding_mode="reflection", align_corners=False)
    return moved.squeeze(1).round_().clamp_(0, 255).to(torch.uint8)


def adjust_gamma(images_NHW: Tensor, exponents_N: Tensor) -> Tensor:
    """uint8 ``[N, H, W]`` with each film's grey values v changed to 255 (v / 255)^g, g its exponent."""
    greys_N256 = (torch.arange(256) / 255) ** exponents_N[:, None]
    table_N256 = _on(images_NHW, (greys_N256 * 255).round().to(torch.uint8))
    return table_N256.gather(1, images_NHW.flatten(1).long()).view_as(images_NHW)


def _on(films: Tensor, drawn: Tensor) -> Tensor:
    """A draw of the CPU on the films' device, without waiting for that device."""
    return drawn.to(films.device, non_blocking=True)


def _affine(movement_N4: Tensor, config: Augmentation, height_over_width: float) -> Tensor:
    """Draws in [-1, 1] to output-to-input maps; the angle is corrected for films that are not square."""
    angle_N = movement_N4[:, 0] * math.radians(config.rotate)
    zoom_N = 1 / (1 + movement_N4[:, 1] * config.scale)
    cosine_N, sine_N = zoom_N * torch.cos(angle_N), zoom_N * torch.sin(angle_N)
    shift_x_N, shift_y_N = movement_N4[:, 2] * 2 * config.shift, movement_N4[:, 3] * 2 * config.shift
    across_N = torch.stack([cosine_N, sine_N * height_over_width, shift_x_N], dim=1)
    down_N = torch.stack([-sine_N / height_over_width, cosine_N, shift_y_N], dim=1)
    return torch.stack([across_N, down_N], dim=1)

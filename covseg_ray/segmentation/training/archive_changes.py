"""What archives do to the file of a film, at random: grey levels, reduction and enlargement, sharpness, noise, borders,
markers and JPEG compression. Nothing moves, so that the mask stays as it is.

A network that sees every film under such changes, whatever its label, cannot learn the label from them. As in
`augment`, parameters are drawn on the CPU and applied on the films' device.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor

from covseg_ray.segmentation.training.image_operators import FILTERS, blurring, jpeg, resampling

# How often a film is changed in each way, and how much at most; amounts are drawn uniformly.
WINDOWED, MOST_CUT = 0.3, 0.2  # of the grey levels, at each end
FEW_LEVELS, LEAST_LEVELS = 0.15, 24
REDUCED, LEAST_SIDE = 0.6, 0.5  # of a side
BLURRED, MOST_BLUR = 0.25, 1.2  # pixels
SHARPENED, MOST_SHARPENING = 0.25, 1.0
NOISY, MOST_NOISE = 0.4, 6.0  # standard deviation in grey levels
BORDERED, MOST_BORDER = 0.15, 0.08  # of a side
MARKED, LEAST_SQUARE, MOST_SQUARE, LETTER = 0.15, 0.01, 0.025, (5, 3)  # a letter's squares, of a side
COMPRESSED, LEAST_QUALITY, MOST_QUALITY = 0.4, 35, 98


class Changes(NamedTuple):
    """Parameters of the changes of N films of S pixels a side, in the order in which they are applied.

    ``levels_N256`` holds each grey level's new one, 0 to 255. ``sides_N`` is the side of the reduced film, S for none;
    ``filters`` are the names for reduction and enlargement, one pair for all films. ``qualities_N2`` are those of the
    reduced film and of the final one, 0 for no compression. What a Gaussian blur of ``blur_N`` pixels takes away is
    added ``sharpening_N`` times: -1 for the blur itself. ``noise_N`` is in grey levels. ``borders_N4`` are the frame's
    pixels at the top, bottom, left and right, ``frame_N`` its grey level. ``marker_N3`` is a letter's first row and
    column and its squares' side, 0 for none; ``letters_N53`` says which squares are white.
    """

    levels_N256: Tensor
    sides_N: Tensor
    filters: tuple[str, str]
    qualities_N2: Tensor
    blur_N: Tensor
    sharpening_N: Tensor
    noise_N: Tensor
    borders_N4: Tensor
    frame_N: Tensor
    marker_N3: Tensor
    letters_N53: Tensor


def change_files(images_NSS: Tensor, seed: int) -> Tensor:
    """Square films, uint8 ``[N, S, S]``, each under changes of its own; the input is not changed."""
    generator = torch.Generator().manual_seed(seed)
    count, side = images_NSS.shape[:2]
    changes = draw(count, side, generator)
    noise_TT = torch.randn(2 * side, 2 * side, generator=generator)
    corners_N2 = torch.randint(side, (count, 2), generator=generator).tolist()
    noise_TT = noise_TT.to(images_NSS.device, non_blocking=True)
    noise_NSS = torch.stack([noise_TT[y : y + side, x : x + side] for y, x in corners_N2])
    tensors = {name: each for name, each in changes._asdict().items() if isinstance(each, Tensor)}
    there: dict[str, Any] = {name: each.to(images_NSS.device, non_blocking=True) for name, each in tensors.items()}
    return apply(images_NSS, changes._replace(**there), noise_NSS)


def apply(images_NSS: Tensor, changes: Changes, noise_NSS: Tensor) -> Tensor:
    """The films under these changes; ``noise_NSS`` has a standard deviation of 1."""
    side, (down, up) = images_NSS.shape[1], changes.filters
    full_N = torch.full_like(changes.sides_N, side)
    reduce_NSS = resampling(full_N, changes.sides_N, down, side)
    identity_SS = torch.eye(side, device=images_NSS.device)
    lost_NSS = identity_SS - blurring(changes.blur_N, side, MOST_BLUR)
    sharpen_NSS = identity_SS + changes.sharpening_N[:, None, None] * lost_NSS
    enlarge_NSS = sharpen_NSS @ resampling(changes.sides_N, full_N, up, side)
    films_NSS = changes.levels_N256.gather(1, images_NSS.flatten(1).long()).view(images_NSS.shape)
    films_NSS = (reduce_NSS @ films_NSS @ reduce_NSS.mT).clamp(0, 255)
    films_NSS = _compressed(films_NSS, changes.qualities_N2[:, 0])
    films_NSS = enlarge_NSS @ films_NSS @ enlarge_NSS.mT
    films_NSS = (films_NSS + changes.noise_N[:, None, None] * noise_NSS).clamp(0, 255)
    films_NSS = _marked(_framed(films_NSS, changes), changes)
    return _compressed(films_NSS, changes.qualities_N2[:, 1]).round().to(torch.uint8)


def _compressed(films_NSS: Tensor, qualities_N: Tensor) -> Tensor:
    return torch.where(qualities_N[:, None, None] > 0, jpeg(films_NSS, qualities_N.clamp(min=1)), films_NSS)


def _framed(films_NSS: Tensor, changes: Changes) -> Tensor:
    side = films_NSS.shape[1]
    at_S, (top, bottom, left, right) = torch.arange(side, device=films_NSS.device), changes.borders_N4.T[:, :, None]
    rows_NS = (at_S < top) | (at_S >= side - bottom)
    columns_NS = (at_S < left) | (at_S >= side - right)
    return torch.where(rows_NS[:, :, None] | columns_NS[:, None, :], changes.frame_N[:, None, None], films_NSS)


def _marked(films_NSS: Tensor, changes: Changes) -> Tensor:
    at_S, (row, column, square) = (
        torch.arange(films_NSS.shape[1], device=films_NSS.device),
        changes.marker_N3.T[:, :, None],
    )
    squares = square.clamp(min=1)
    y_NS, x_NS = (
        torch.div(at_S - row, squares, rounding_mode="floor"),
        torch.div(at_S - column, squares, rounding_mode="floor"),
    )
    height, width = LETTER
    inside_NSS = ((y_NS >= 0) & (y_NS < height) & (square > 0))[:, :, None] & ((x_NS >= 0) & (x_NS < width))[:, None, :]
    places_NSS = y_NS.clamp(0, height - 1)[:, :, None] * width + x_NS.clamp(0, width - 1)[:, None, :]
    white_NSS = changes.letters_N53.flatten(1).gather(1, places_NSS.flatten(1)).view(places_NSS.shape)
    return torch.where(inside_NSS & white_NSS, 255.0, films_NSS)


def draw(count: int, side: int, generator: Generator) -> Changes:
    """Parameters of ``count`` films of ``side`` pixels, drawn for each film alone."""

    def uniform(low: float, high: float, *more: int) -> Tensor:
        return low + (high - low) * torch.rand(count, *more, generator=generator)

    def whether(probability: float) -> Tensor:
        return torch.rand(count, generator=generator) < probability

    cut_N2 = torch.where(whether(WINDOWED)[:, None], uniform(0, MOST_CUT, 2), 0.0)
    compressed_N2 = torch.stack([whether(COMPRESSED), whether(COMPRESSED)], dim=1)
    names, pair = tuple(FILTERS), torch.randint(len(FILTERS), (2,), generator=generator).tolist()
    sharpening_N = torch.where(whether(SHARPENED), uniform(0, MOST_SHARPENING), 0.0)
    marked_N, square_N = whether(MARKED), (uniform(LEAST_SQUARE, MOST_SQUARE) * side).round().clamp(min=1)
    room_N2 = side - square_N[:, None] * torch.tensor(LETTER)
    place_N2 = (uniform(0.02, 0.15, 2) * side).round()
    place_N2 = torch.where(torch.rand(count, 2, generator=generator) < 0.5, place_N2, room_N2 - place_N2)
    return Changes(
        levels_N256=levels(
            cut_N2, whether(0.5), torch.where(whether(FEW_LEVELS), uniform(LEAST_LEVELS, 129).long(), 256)
        ),
        sides_N=torch.where(whether(REDUCED), (uniform(LEAST_SIDE, 1) * side).round().clamp(1, side), side).long(),
        filters=(names[pair[0]], names[pair[1]]),
        qualities_N2=torch.where(compressed_N2, uniform(LEAST_QUALITY, MOST_QUALITY + 1, 2).long(), 0),
        blur_N=uniform(0, MOST_BLUR),
        sharpening_N=torch.where(whether(BLURRED), -1.0, sharpening_N),
        noise_N=torch.where(whether(NOISY), uniform(0, MOST_NOISE), 0.0),
        borders_N4=torch.where(whether(BORDERED)[:, None], (uniform(0, MOST_BORDER, 4) * side).round(), 0.0).long(),
        frame_N=torch.where(whether(0.5), 0.0, 255.0),
        marker_N3=torch.where(marked_N[:, None], torch.cat([place_N2, square_N[:, None]], 1), 0.0).long(),
        letters_N53=torch.rand(count, *LETTER, generator=generator) < 0.6,
    )


def levels(cut_N2: Tensor, widened_N: Tensor, steps_N: Tensor) -> Tensor:
    """float32 ``[N, 256]``: each grey level's new one, a whole number of 0 to 255.

    The window without these shares at both ends is stretched to all levels; where ``widened_N``, all levels are pressed
    into it. Of the result as many evenly spaced levels are kept as ``steps_N`` says.
    """
    grey_256, low_N1, window_N1 = torch.arange(256) / 255, cut_N2[:, :1], 1 - cut_N2.sum(1, keepdim=True)
    stretched_N256 = ((grey_256 - low_N1) / window_N1).clamp(0, 1)
    seen_N256 = torch.where(widened_N[:, None], low_N1 + grey_256 * window_N1, stretched_N256)
    gaps_N1 = steps_N[:, None] - 1
    return ((seen_N256 * gaps_N1).round() / gaps_N1 * 255).round()

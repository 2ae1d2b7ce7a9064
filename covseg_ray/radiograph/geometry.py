"""A film of any size to the model's square, and a mask from the square back to the film's own pixels.

Both ways use the pixel-centre convention: row ``i`` of ``n`` lies at ``(i + 1/2) / n`` of the height. Images are
resized by Pillow's antialiased bilinear filter, masks by nearest neighbour with exact integer arithmetic. A film no
larger than the square therefore gets its own mask back bit for bit, and so does a square whose film is no smaller.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from covseg_ray.errors import UsageError

Resize = Literal["stretch", "letterbox"]


@dataclass(frozen=True, slots=True)
class Placement:
    """A film's own `height` and `width`, and its place in a square of `size` pixels.

    ``stretch`` fills the square; ``letterbox`` keeps the film's proportions and centres it between bars of zeros.
    """

    height: int
    width: int
    size: int
    resize: Resize

    def __post_init__(self) -> None:
        if min(self.height, self.width, self.size) < 1:
            raise UsageError(
                f"a {self.height} x {self.width} film cannot be laid into {self.size} x {self.size} pixels"
            )
        if self.resize not in ("stretch", "letterbox"):
            raise UsageError(f"unknown resize rule {self.resize!r}: use stretch or letterbox")

    @property
    def inner_shape(self) -> tuple[int, int]:
        """Rows and columns of the square that the film covers."""
        if self.resize == "stretch":
            return self.size, self.size
        longest = max(self.height, self.width)
        return _rounded(self.height * self.size, longest), _rounded(self.width * self.size, longest)

    @property
    def inner(self) -> tuple[slice, slice]:
        """The film's rows and columns inside the square."""
        height, width = self.inner_shape
        top, left = (self.size - height) // 2, (self.size - width) // 2
        return slice(top, top + height), slice(left, left + width)


def standardise(
    pixels_HW: NDArray[np.uint8] | NDArray[np.uint16], size: int = 256, resize: Resize = "stretch"
) -> tuple[NDArray[np.uint8], Placement]:
    """A film as uint8 [size, size] and the `Placement` that leads back.

    uint8 is kept as it is (a film that already has the size comes back unchanged); uint16 is scaled so that the film's
    darkest pixel becomes 0 and its brightest 255.
    """
    placement = Placement(pixels_HW.shape[0], pixels_HW.shape[1], size, resize)
    height, width = placement.inner_shape
    film = Image.fromarray(pixels_HW if pixels_HW.dtype == np.uint8 else _scaled(pixels_HW))
    inner_HW = np.asarray(film.resize((width, height), Image.Resampling.BILINEAR))
    square_SS = np.zeros((size, size), np.uint8)
    square_SS[placement.inner] = inner_HW if inner_HW.dtype == np.uint8 else inner_HW.round().clip(0, 255)
    return square_SS, placement


def standardise_mask(mask_HW: NDArray[np.uint8], size: int = 256, resize: Resize = "stretch") -> NDArray[np.uint8]:
    """A mask of 0 and 1, uint8 [H, W], placed as `standardise` places its film: uint8 [size, size], bars are 0."""
    placement = Placement(mask_HW.shape[0], mask_HW.shape[1], size, resize)
    square_SS = np.zeros((size, size), np.uint8)
    square_SS[placement.inner] = resize_mask(mask_HW, placement.inner_shape)
    return square_SS


def restore_mask(mask_SS: NDArray[np.uint8], placement: Placement) -> NDArray[np.uint8]:
    """The way back: a mask of the square, uint8 [size, size], at the film's own size [H, W]; bars are cut off."""
    if mask_SS.shape != (placement.size, placement.size):
        raise UsageError(
            f"a mask of shape {mask_SS.shape} does not fit a placement of {placement.size} x {placement.size}"
        )
    return resize_mask(mask_SS[placement.inner], (placement.height, placement.width))


def eight_bits(pixels_HW: NDArray[np.uint8] | NDArray[np.uint16]) -> NDArray[np.uint8]:
    """A film in uint8 at its own size: uint8 as it is, uint16 scaled from its darkest to its brightest pixel."""
    return pixels_HW.astype(np.uint8) if pixels_HW.dtype == np.uint8 else _scaled(pixels_HW).round().astype(np.uint8)


def shrink(pixels_HW: NDArray[np.uint8] | NDArray[np.uint16], longest: int) -> NDArray[np.uint8]:
    """A film in uint8 for display: no side longer than ``longest`` pixels, its proportions kept."""
    picture = Image.fromarray(eight_bits(pixels_HW))
    picture.thumbnail((longest, longest), Image.Resampling.BILINEAR, reducing_gap=None)
    return np.asarray(picture)


def _scaled(pixels_HW: NDArray[np.uint8] | NDArray[np.uint16]) -> NDArray[np.float32]:
    low, high = int(pixels_HW.min()), int(pixels_HW.max())
    return (pixels_HW.astype(np.float32) - low) * np.float32(255 / max(high - low, 1))


def resize_mask(mask_HW: NDArray[np.uint8], shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """A mask of any classes, uint8 [H, W], at another ``shape`` (rows, columns): each pixel is that of its centre."""
    rows, columns = ((2 * np.arange(new) + 1) * old // (2 * new) for new, old in zip(shape, mask_HW.shape, strict=True))
    resized_HW: NDArray[np.uint8] = mask_HW[rows][:, columns]
    return resized_HW


def _rounded(numerator: int, denominator: int) -> int:
    return max(1, (2 * numerator + denominator) // (2 * denominator))

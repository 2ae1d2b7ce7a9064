"""Masks: the rule that makes one binary, the 1-bit PNG in which they are stored, and their overlay on a film."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import binary_erosion

from covseg_ray.errors import DatasetError
from covseg_ray.radiograph.decode import decode
from covseg_ray.radiograph.film import Rejected
from covseg_ray.radiograph.geometry import eight_bits

AMBER = (255, 140, 32)
_FILL = 0.18
_PIXELS_PER_LINE = 300


def binarise(mask_HW: NDArray[np.uint8] | NDArray[np.uint16]) -> NDArray[np.uint8]:
    """A published mask as uint8 [H, W] of 0 and 1: zero is background, the one other value is infection.

    Raises `DatasetError` when the mask holds anything more, as one with grey edges does.
    """
    foreground_HW = mask_HW > 0
    if not np.array_equal(mask_HW, foreground_HW * mask_HW.max()):
        raise DatasetError(
            f"the mask is not binary: it holds {len(np.unique(mask_HW))} different values, "
            "but may hold one value, or 0 and one other (the other is infection); threshold it first"
        )
    return foreground_HW.astype(np.uint8)


def encode_png(pixels: NDArray[np.uint8] | NDArray[np.bool_]) -> bytes:
    """A PNG of uint8 ``[H, W]`` (grey) or ``[H, W, 3]`` (RGB), or of bool ``[H, W]`` (1 bit a pixel)."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def encode_png1(mask_HW: NDArray[np.uint8]) -> bytes:
    """A mask of 0 and 1 as a PNG of 1 bit a pixel."""
    return encode_png(mask_HW.astype(bool))


def decode_png1(data: bytes) -> NDArray[np.uint8]:
    """The inverse of `encode_png1`: uint8 [H, W] of 0 and 1; raises `DatasetError` for anything but a binary image."""
    mask = decode(data)
    if isinstance(mask, Rejected):
        raise DatasetError(f"the mask cannot be read ({mask.reason}): {mask.detail}; write it again")
    return binarise(mask.pixels)


def overlay(
    pixels_HW: NDArray[np.uint8] | NDArray[np.uint16],
    mask_HW: NDArray[np.uint8],
    colour: tuple[int, int, int] = AMBER,
) -> NDArray[np.uint8]:
    """The film in grey with the mask's contour and a faint fill in `colour` (RGB, 0 to 255): uint8 [H, W, 3].

    The contour is the mask's own outermost pixels; what lies beyond the film is background.
    """
    if mask_HW.shape != pixels_HW.shape:
        raise DatasetError(f"a mask of {mask_HW.shape} does not lie on a film of {pixels_HW.shape}: resize one of them")
    line = max(1, round(min(mask_HW.shape) / _PIXELS_PER_LINE))
    picture_HW3 = np.repeat(eight_bits(pixels_HW)[:, :, None], 3, axis=2)
    inside_HW, paint = mask_HW.astype(bool), np.array(colour, np.float32)
    picture_HW3[inside_HW] = (picture_HW3[inside_HW] * (1 - _FILL) + paint * _FILL).round()
    picture_HW3[inside_HW & ~binary_erosion(inside_HW, iterations=line)] = paint
    return picture_HW3

"""Pixels to PNG bytes."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def encode_png(pixels: NDArray[np.uint8] | NDArray[np.bool_]) -> bytes:
    """A PNG of uint8 ``[H, W]`` (grey) or ``[H, W, 3]`` (RGB), or of bool ``[H, W]`` (1 bit a pixel)."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()

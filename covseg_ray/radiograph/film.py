"""The result of decoding, a `Radiograph` or a `Rejected` with its reason, and the limits on what is decoded."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Radiograph:
    """One film: `pixels` uint8 or uint16 [H, W], bright = dense; `spacing_mm` between rows and columns where known.

    Only DICOM sets `spacing_mm` and `instance_uid`, the SOP instance UID: the resolution in other formats is that of a
    screen or a printer.
    """

    pixels: NDArray[np.uint8] | NDArray[np.uint16]
    spacing_mm: tuple[float, float] | None = None
    instance_uid: str | None = None


@dataclass(frozen=True, slots=True)
class Rejected:
    """Why a file is not a usable radiograph.

    `reason` is a stable code: ``empty``, ``not-an-image``, ``too-large``, ``truncated``, ``corrupt``, ``unsupported``;
    of DICOM also ``not-a-radiograph``, ``multi-frame``, ``colour``, ``no-pixel-data``; of a `DecodingChild` also
    ``decoder-crashed``, ``decoder-hung``; of the frontal check, where it may reject, ``not-frontal``. `detail` is one
    line of text for the user.
    """

    reason: str
    detail: str


@dataclass(frozen=True, slots=True)
class Limits:
    """Checked before any pixel is decoded: file size at most `max_bytes`, height x width at most `max_pixels`."""

    max_bytes: int = 256 * 2**20
    max_pixels: int = 100_000_000


class RefusedError(Exception):
    """Carries a `Rejected` up to where it is returned: the decode boundary, or the packing of a sample."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.rejected = Rejected(reason, detail)


def check_bytes(data: bytes, limits: Limits) -> None:
    """Raises RefusedError for an empty file and for one over the limit."""
    if not data:
        raise RefusedError("empty", "the file holds no bytes")
    if len(data) > limits.max_bytes:
        raise RefusedError("too-large", f"{len(data):,} bytes, the limit is {limits.max_bytes:,}")


def check_pixels(width: int, height: int, limits: Limits) -> None:
    """Raises RefusedError for an image over the limit."""
    if width * height > limits.max_pixels:
        raise RefusedError(
            "too-large", f"{width} x {height} is {width * height:,} pixels, the limit is {limits.max_pixels:,}"
        )

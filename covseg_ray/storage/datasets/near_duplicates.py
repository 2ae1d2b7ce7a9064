"""Find copies of films: exact ones by digest, near ones by a perceptual hash that a correlation confirms.

The hash is the difference hash (dHash, N. Krawetz 2013) along both axes: 9 x 8 and 8 x 9 block means, each compared
with its neighbour, 128 bits. Chest films resemble each other: a near hash makes a pair a candidate, and the
correlation (Pearson) of the 32 x 32 thumbnails decides. Both thresholds were set by eye on COVID-QU-Ex: films of one
patient at another crop or contrast lie above them, different patients in the same pose just below.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

THUMBNAIL = 32
HASH_SIDE = 8
MAX_DISTANCE = 14
MIN_CORRELATION = 0.955
_BLOCK = 1024


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """``digest`` of shape and pixels; ``bits`` +1 or -1 float32 [128]; ``thumbnail`` mean 0, norm 1, float32 [1024]."""

    digest: str
    bits: NDArray[np.float32]
    thumbnail: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Pair:
    """Positions of two films, whether their pixels are equal, and the correlation of their thumbnails."""

    first: int
    second: int
    exact: bool
    correlation: float


def fingerprint(image_HW: NDArray[np.uint8]) -> Fingerprint:
    """The fingerprint of a film; a constant film has an all-zero thumbnail and no near copy."""
    image = Image.fromarray(np.ascontiguousarray(image_HW))
    wide = np.asarray(image.resize((HASH_SIDE + 1, HASH_SIDE), Image.Resampling.BOX), np.int16)
    tall = np.asarray(image.resize((HASH_SIDE, HASH_SIDE + 1), Image.Resampling.BOX), np.int16)
    rising = np.concatenate([(np.diff(wide, axis=1) > 0).ravel(), (np.diff(tall, axis=0) > 0).ravel()])
    thumbnail = np.asarray(image.resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX), np.float32).ravel()
    thumbnail = thumbnail - thumbnail.mean()
    norm = np.linalg.norm(thumbnail)
    return Fingerprint(
        digest=hashlib.sha256(repr(image_HW.shape).encode() + image_HW.tobytes()).hexdigest(),
        bits=np.where(rising, np.float32(1), np.float32(-1)),
        thumbnail=(thumbnail / norm if norm else thumbnail).astype(np.float32),
    )


def find_duplicates(fingerprints: Sequence[Fingerprint]) -> list[Pair]:
    """Every pair of films that are exact or near copies, by position, the first before the second."""
    if len(fingerprints) < 2:
        return []
    bits = np.stack([each.bits for each in fingerprints])
    thumbnails = np.stack([each.thumbnail for each in fingerprints])
    pairs = []
    for first, second in _near_hashes(bits):
        correlation = float(thumbnails[first] @ thumbnails[second])
        exact = fingerprints[first].digest == fingerprints[second].digest
        if exact or correlation >= MIN_CORRELATION:
            pairs.append(Pair(first, second, exact, correlation))
    return pairs


def _near_hashes(bits: NDArray[np.float32]) -> Iterator[tuple[int, int]]:
    # For bits of +1 and -1 the Hamming distance is (length - dot product) / 2: one matrix product a block.
    least = bits.shape[1] - 2 * MAX_DISTANCE
    for start in range(0, len(bits), _BLOCK):
        near = bits[start : start + _BLOCK] @ bits[start:].T >= least
        for row, column in zip(*np.nonzero(near), strict=True):
            if row < column:
                yield start + int(row), start + int(column)

"""A mask in the forms that other programs read: run lengths in the order of COCO, and polygons."""

from __future__ import annotations

import numpy as np
from contourpy import LineType, contour_generator
from numpy.typing import NDArray


def run_lengths(mask_HW: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Lengths of the runs of 0, 1, 0 ... in column-major order, as in COCO: the first run is of 0, and has length 0
    where the mask begins with 1.
    """
    flat = mask_HW.ravel(order="F")
    edges = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    lengths: NDArray[np.int64] = np.diff(edges, prepend=0, append=flat.size)
    return np.concatenate([np.zeros(1, np.int64), lengths]) if flat[0] else lengths


def bounding_box(mask_HW: NDArray[np.uint8]) -> tuple[slice, slice]:
    """Rows and columns of the smallest box around the mask's pixels; both empty where the mask is."""
    rows, columns = np.flatnonzero(mask_HW.any(axis=1)), np.flatnonzero(mask_HW.any(axis=0))
    if not len(rows):
        return slice(0, 0), slice(0, 0)
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)


def polygons(mask_HW: NDArray[np.uint8]) -> list[NDArray[np.float64]]:
    """Closed polygons float [P, 2] of x and y around the mask's regions and their holes.

    In pixels from the film's top left corner: the centre of its first pixel is (0.5, 0.5). They pass midway between a
    pixel of the mask and one outside (marching squares at 1/2, by contourpy). The last point equals the first; points
    on a straight line are left out. Even-odd filling gives the mask's pixels back.
    """
    rows, columns = bounding_box(mask_HW)
    padded_HW = np.pad(mask_HW[rows, columns].astype(np.float64), 1)
    lines = contour_generator(z=padded_HW, line_type=LineType.Separate).lines(0.5)
    corner_2 = np.array([columns.start - 0.5, rows.start - 0.5])
    return [_without_collinear(np.asarray(line)) + corner_2 for line in lines]


def _without_collinear(line_P2: NDArray[np.float64]) -> NDArray[np.float64]:
    """A closed line without the points that lie on the straight line between their neighbours."""
    ring_P2 = line_P2[:-1]
    into_P2, out_of_P2 = ring_P2 - np.roll(ring_P2, 1, axis=0), np.roll(ring_P2, -1, axis=0) - ring_P2
    turns_P = into_P2[:, 0] * out_of_P2[:, 1] != into_P2[:, 1] * out_of_P2[:, 0]
    kept_P2 = ring_P2[turns_P]
    return np.concatenate([kept_P2, kept_P2[:1]])

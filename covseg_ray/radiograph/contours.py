"""A mask as other programs want it: run lengths as COCO counts them, and outlines as polygons."""

from __future__ import annotations

import numpy as np
from contourpy import LineType, contour_generator
from numpy.typing import NDArray


def run_lengths(mask_HW: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Pixels in each run of 0, of 1, of 0 and so on, down one column after the other, as COCO counts them: the first
    run is of 0, and 0 long where the mask begins with 1.
    """
    flat = mask_HW.ravel(order="F")
    edges = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    lengths: NDArray[np.int64] = np.diff(edges, prepend=0, append=flat.size)
    return np.concatenate([np.zeros(1, np.int64), lengths]) if flat[0] else lengths


def box(mask_HW: NDArray[np.uint8]) -> tuple[slice, slice]:
    """Rows and columns of the smallest box around the mask's pixels; none of either where it marks none."""
    rows, columns = np.flatnonzero(mask_HW.any(axis=1)), np.flatnonzero(mask_HW.any(axis=0))
    if not len(rows):
        return slice(0, 0), slice(0, 0)
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)


def outlines(mask_HW: NDArray[np.uint8]) -> list[NDArray[np.float64]]:
    """Closed polygons float [P, 2] of x and y around the mask's regions and their holes.

    In pixels from the film's top left corner, so that the centre of its first pixel is (0.5, 0.5). They run through
    the middle between a pixel of the mask and one that is not (marching squares at 1/2, by contourpy), with the last
    point like the first and only the points where they turn: even-odd filling gives the mask's pixels back.
    """
    rows, columns = box(mask_HW)
    padded_HW = np.pad(mask_HW[rows, columns].astype(np.float64), 1)
    lines = contour_generator(z=padded_HW, line_type=LineType.Separate).lines(0.5)
    corner_2 = np.array([columns.start - 0.5, rows.start - 0.5])
    return [_corners(np.asarray(line)) + corner_2 for line in lines]


def _corners(line_P2: NDArray[np.float64]) -> NDArray[np.float64]:
    """Without the points of a closed line that lie on the straight way from the one before to the one after."""
    ring_P2 = line_P2[:-1]
    into_P2, out_of_P2 = ring_P2 - np.roll(ring_P2, 1, axis=0), np.roll(ring_P2, -1, axis=0) - ring_P2
    turns_P = into_P2[:, 0] * out_of_P2[:, 1] != into_P2[:, 1] * out_of_P2[:, 0]
    kept_P2 = ring_P2[turns_P]
    return np.concatenate([kept_P2, kept_P2[:1]])

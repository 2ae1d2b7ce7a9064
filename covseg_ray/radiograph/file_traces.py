"""What the way a film's file was made leaves in its pixels: numbers that say nothing about the lung.

If such a number differs between the labels of a dataset, a network can learn the file instead of the disease (a
shortcut: Geirhos et al., Nature Machine Intelligence 2, 2020).
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

GRID = 8  # side of JPEG's blocks, in pixels (ITU-T T.81)
HIGH = (0.45, 0.5)  # cycles a pixel
BELOW = (0.35, 0.43)


def file_traces(film_HW: NDArray[np.uint8]) -> dict[str, float]:
    """The traces of a film, uint8 [H, W] of at least 16 pixels a side, by name.

    - ``spectrum``: mean power at 0.45 to 0.5 cycles a pixel over that at 0.35 to 0.43, mean removed, Hann window. The
      frequency is the larger of those along rows and columns: resizing a film cuts off both axes alike. 0 where the
      film has no power there.
    - ``levels``: share of the 256 grey levels that occur.
    - ``mean``: mean grey level, 0 to 255.
    - ``grid``: mean absolute difference of neighbours across multiples of 8 pixels over that of other neighbours, as
      the blocks of JPEG and a resize by a multiple of 1/8 change it. 1 where all pixels are equal.
    - ``borders``: share of rows and columns that lie at an edge of the film and hold one value each.
    """
    return {
        "spectrum": _spectrum(film_HW),
        "levels": len(np.unique(film_HW)) / 256,
        "mean": float(film_HW.mean()),
        "grid": _grid(film_HW),
        "borders": (_borders(film_HW) + _borders(film_HW.T)) / sum(film_HW.shape),
    }


def _spectrum(film_HW: NDArray[np.uint8]) -> float:
    window_HW, high_HW, below_HW = _bands(film_HW.shape)
    power_HW = np.abs(np.fft.fft2((film_HW - film_HW.mean()) * window_HW)) ** 2
    below = power_HW[below_HW].mean()
    return float(power_HW[high_HW].mean() / below) if below else 0.0


@lru_cache(4)
def _bands(shape: tuple[int, int]) -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_]]:
    """The window, and which frequencies lie in the two bands."""
    rows, columns = (np.abs(np.fft.fftfreq(side)) for side in shape)
    frequency_HW = np.maximum(rows[:, None], columns)
    bands = ((frequency_HW >= low) & (frequency_HW <= high) for low, high in (HIGH, BELOW))
    return (np.outer(np.hanning(shape[0]), np.hanning(shape[1])), *bands)


def _grid(film_HW: NDArray[np.uint8]) -> float:
    across, elsewhere = 0.0, 0.0
    for lines_HW in (film_HW, film_HW.T):
        steps_N = np.abs(np.diff(lines_HW.astype(np.int16), axis=0)).mean(axis=1)
        at_grid_N = np.arange(1, len(lines_HW)) % GRID == 0
        across += float(steps_N[at_grid_N].mean())
        elsewhere += float(steps_N[~at_grid_N].mean())
    if not elsewhere:
        return float("inf") if across else 1.0
    return across / elsewhere


def _borders(lines_HW: NDArray[np.uint8]) -> int:
    """Rows of one value each, from the first and from the last row on."""
    varied = np.flatnonzero((lines_HW != lines_HW[:, :1]).any(axis=1))
    return len(lines_HW) - (int(varied[-1] - varied[0]) + 1 if varied.size else 0)

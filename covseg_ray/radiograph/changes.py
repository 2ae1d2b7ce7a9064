"""Changes that archives make to a film without moving anything on it: its mask stays valid.

Each is a pure function of a film, uint8 ``[H, W]``, and a NumPy generator to a film of the same size and type; few use
the generator. `change_film` seeds it by the image id and the change's name, so that every worker changes a film alike.

=======================  ===========================================================================================
``jpeg-Q``               encode as JPEG of quality Q and decode
``reduce-N-FILTER``      reduce to N / 256 of each side and enlarge again, with Pillow's filters: ``bilinear`` and
                         ``lanczos`` both ways; ``box`` averages the pixels of a box and enlarges bilinearly
``reduce-...+jpeg-Q``    the one, then the other
``blur-S``               Gaussian blur with a standard deviation of S pixels
``sharpen-P``            unsharp mask: add P percent of the difference to a Gaussian blur of 1 pixel
``noise-S``              add Gaussian noise with a standard deviation of S grey levels
``gamma-G``              ``255 * (level / 255) ** G``
``window-P``             show a grey-level window as 0 to 255: P percent as wide as the film's own range, about the
                         middle of it; a narrow one clips
``levels-N``             round to N grey levels at equal distances, as in a file that uses few of its bits
``border-black``         a frame of 5 % of each side at level 0, as of a collimator
``border-white``         the same at level 255
``marker``               a bright L in a corner, as a side marker: a twelfth of the shorter side high
=======================  ===========================================================================================

Frame and marker hide pixels. The mask keeps what they hide.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter

Film = NDArray[np.uint8]
Change = Callable[[Film, np.random.Generator], Film]

WHITE = 255
FRAME_SHARE = 0.05
MARKER_LEVEL = 250
_WHOLE = 256  # reductions are in 256ths of the side
_FILTERS = {
    "bilinear": (Image.Resampling.BILINEAR, Image.Resampling.BILINEAR),
    "box": (Image.Resampling.BOX, Image.Resampling.BILINEAR),
    "lanczos": (Image.Resampling.LANCZOS, Image.Resampling.LANCZOS),
}


def change_film(name: str, film_HW: Film, image_id: str) -> Film:
    """The film after the change of that name in `CHANGES`. The same film, id and name always give the same pixels.

    Raises:
        KeyError: there is no such change.
    """
    seed = hashlib.sha256(f"{name}\n{image_id}".encode()).digest()
    return CHANGES[name](film_HW, np.random.default_rng(int.from_bytes(seed[:16], "big")))


def jpeg(film_HW: Film, _: np.random.Generator, *, quality: int) -> Film:
    """After encoding as JPEG, quality 1 to 100, and decoding."""
    file = io.BytesIO()
    Image.fromarray(film_HW).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file, formats=["JPEG"]))


def reduce(film_HW: Film, _: np.random.Generator, *, side: int, by: str) -> Film:
    """Reduced to ``side`` / 256 of each side and enlarged again by the filters ``by``."""
    down, up = _FILTERS[by]
    height, width = film_HW.shape
    smaller = tuple(max(1, round(length * side / _WHOLE)) for length in (width, height))
    return np.asarray(Image.fromarray(film_HW).resize(smaller, down).resize((width, height), up))


def blur(film_HW: Film, _: np.random.Generator, *, sigma: float) -> Film:
    """Gaussian blur, ``sigma`` in pixels."""
    return _rounded(_blurred(film_HW, sigma))


def sharpen(film_HW: Film, _: np.random.Generator, *, percent: int) -> Film:
    """Unsharp mask with a Gaussian of 1 pixel."""
    return _rounded(film_HW + percent / 100 * (film_HW - _blurred(film_HW, 1.0)))


def noise(film_HW: Film, generator: np.random.Generator, *, sigma: float) -> Film:
    """With Gaussian noise, ``sigma`` in grey levels."""
    return _rounded(film_HW + generator.normal(0, sigma, film_HW.shape))


def gamma(film_HW: Film, _: np.random.Generator, *, exponent: float) -> Film:
    """Each level, as a share of 255, to the power of ``exponent``: above 1 darkens."""
    return _rounded(WHITE * (film_HW / WHITE) ** exponent)


def window(film_HW: Film, _: np.random.Generator, *, percent: int) -> Film:
    """A window ``percent`` as wide as the film's range of levels, about its middle, as 0 to 255."""
    low, high = int(film_HW.min()), int(film_HW.max())
    width = max(1.0, (high - low) * percent / 100)
    return _rounded((film_HW - (low + high - width) / 2) * WHITE / width)


def levels(film_HW: Film, _: np.random.Generator, *, number: int) -> Film:
    """Each level rounded to the nearest of ``number`` at equal distances from 0 to 255."""
    steps = number - 1
    return _rounded(np.round(film_HW * (steps / WHITE)) * (WHITE / steps))


def border(film_HW: Film, _: np.random.Generator, *, level: int) -> Film:
    """With a frame of `FRAME_SHARE` of each side at ``level``."""
    rows, columns = (max(1, round(length * FRAME_SHARE)) for length in film_HW.shape)
    framed_HW = np.full_like(film_HW, level)
    framed_HW[rows:-rows, columns:-columns] = film_HW[rows:-rows, columns:-columns]
    return framed_HW


def marker(film_HW: Film, generator: np.random.Generator) -> Film:
    """With a bright letter L in one of the corners."""
    size = max(3, min(film_HW.shape) // 12)
    stroke, margin = max(1, size // 4), size // 2
    letter_SS = np.zeros((size, size), dtype=bool)
    letter_SS[:, :stroke] = letter_SS[-stroke:] = True
    at_end = generator.integers(0, 2, 2)
    rows, columns = (
        slice(start, start + size)
        for start in np.where(at_end, np.array(film_HW.shape) - margin - size, margin).tolist()
    )
    marked_HW = film_HW.copy()
    marked_HW[rows, columns][letter_SS] = MARKER_LEVEL
    return marked_HW


def _blurred(film_HW: Film, sigma: float) -> NDArray[np.float64]:
    blurred_HW: NDArray[np.float64] = gaussian_filter(film_HW.astype(np.float64), sigma)
    return blurred_HW


def _rounded(levels_HW: NDArray[np.floating]) -> Film:
    return levels_HW.round().clip(0, WHITE).astype(np.uint8)


def _in_turn(first: Change, second: Change) -> Change:
    return lambda film_HW, generator: second(first(film_HW, generator), generator)


def _table() -> dict[str, Change]:
    jpegs = {f"jpeg-{quality}": partial(jpeg, quality=quality) for quality in (95, 90, 75, 60, 50, 40)}
    reductions = {
        f"reduce-{side}-{by}": partial(reduce, side=side, by=by) for side in (240, 224, 192, 160) for by in _FILTERS
    }
    return {
        **jpegs,
        **reductions,
        "reduce-224-lanczos+jpeg-90": _in_turn(reductions["reduce-224-lanczos"], jpegs["jpeg-90"]),
        "reduce-192-box+jpeg-75": _in_turn(reductions["reduce-192-box"], jpegs["jpeg-75"]),
        **{f"blur-{sigma}": partial(blur, sigma=sigma) for sigma in (0.7, 1.2)},
        **{f"sharpen-{percent}": partial(sharpen, percent=percent) for percent in (50, 100)},
        **{f"noise-{sigma}": partial(noise, sigma=sigma) for sigma in (2, 4)},
        **{f"gamma-{exponent}": partial(gamma, exponent=exponent) for exponent in (0.7, 1.4)},
        **{f"window-{percent}": partial(window, percent=percent) for percent in (70, 150)},
        **{f"levels-{number}": partial(levels, number=number) for number in (64, 32)},
        "border-black": partial(border, level=0),
        "border-white": partial(border, level=WHITE),
        "marker": marker,
    }


CHANGES: Mapping[str, Change] = MappingProxyType(_table())

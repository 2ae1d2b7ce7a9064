"""The grey level of each stored value of a DICOM film: modality LUT, VOI LUT, then polarity (PS3.4 N.2).

Implemented here because pydicom's own functions fail on some films: a VOI LUT of 8-bit entries overflows, a modality
LUT of 10 to 12 bits raises, and a negative rescale slope inverts the result of a window.
"""

from __future__ import annotations

import math
from collections.abc import MutableSequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from covseg_ray.radiograph.film import RefusedError

if TYPE_CHECKING:
    from pydicom import Dataset, FileDataset

_NARROWEST = 1e-9  # of a window: stands for the step of a window of one value


@dataclass(frozen=True, slots=True)
class _Values:
    """Values between two steps: their possible range, and the bits of the stored values."""

    values_N: NDArray[np.float64]
    low: float
    high: float
    bits: int


def grey_levels(film: FileDataset, stored_N: NDArray[np.int64]) -> NDArray[np.uint8] | NDArray[np.uint16]:
    """The level of each of the stored values int64 [N], bright = dense: uint8 [N] where the grey has 8 bits or less,
    uint16 [N] where it has more.

    The range to display becomes 0 to 255 or 0 to 65535: the entries of the first VOI LUT, else the first window, else
    every value that can be stored. A film of 8 or 16 bits without either therefore keeps its values. An invalid window
    (not a number, a width below 1, or 0 where the function is not LINEAR) is ignored.

    MONOCHROME1 is inverted at the end. The photometric interpretation alone decides that: Presentation LUT Shape
    must agree (PS3.3 C.7.6.1), and is wrong on some films (https://github.com/dcm4che/dcm4che/issues/944).

    Raises:
        RefusedError: a LUT without entries, a rescale slope of 0, an unknown VOI LUT function.
    """
    shown = _voi(film, _modality(film, stored_N))
    top = 255 if shown.bits <= 8 else 65535
    levels_N = np.rint(shown.values_N * top)
    if film.PhotometricInterpretation == "MONOCHROME1":
        levels_N = top - levels_N
    return levels_N.astype(np.uint8) if shown.bits <= 8 else levels_N.astype(np.uint16)


def _modality(film: FileDataset, stored_N: NDArray[np.int64]) -> _Values:
    """PS3.3 C.11.1: the LUT, else slope and intercept, else the stored values."""
    if film.get("ModalityLUTSequence"):
        lut = _lut(film, film.ModalityLUTSequence[0])
        return _Values(lut.look_up(stored_N.astype(np.float64)), 0, lut.top, lut.bits)
    bits, signed = int(film.BitsStored), int(film.PixelRepresentation)
    low = -(1 << bits - 1) if signed else 0
    high = low + (1 << bits) - 1
    slope, intercept = _number(film, "RescaleSlope"), _number(film, "RescaleIntercept")
    if slope is None or intercept is None:
        return _Values(stored_N.astype(np.float64), low, high, bits)
    if slope == 0:
        raise RefusedError("corrupt", "its rescale slope is zero and leaves nothing of the picture")
    ends = (low * slope + intercept, high * slope + intercept)
    return _Values(stored_N.astype(np.float64) * slope + intercept, min(ends), max(ends), bits)


def _voi(film: FileDataset, given: _Values) -> _Values:
    """PS3.3 C.11.2: values from 0 to 1 over the range to display."""
    views = film.get("VOILUTSequence")
    if views and "LUTData" in views[0]:
        lut = _lut(film, views[0])
        return _Values(lut.look_up(given.values_N) / lut.top, 0, 1, lut.bits)
    function = str(film.get("VOILUTFunction") or "LINEAR").strip().upper()
    if function not in ("LINEAR", "LINEAR_EXACT", "SIGMOID"):
        raise RefusedError("unsupported", "its VOI LUT function is none of LINEAR, LINEAR_EXACT and SIGMOID")
    center, width = _number(film, "WindowCenter"), _number(film, "WindowWidth")
    if center is None or width is None or width <= 0 or (function == "LINEAR" and width < 1):
        shown_N = _ramp(given.values_N, given.low, given.high)
    elif function == "SIGMOID":  # C.11.2.1.3.1; the logistic function as a hyperbolic tangent cannot overflow
        shown_N = (1 + np.tanh(2 * (given.values_N - center) / width)) / 2
    elif function == "LINEAR_EXACT":  # C.11.2.1.3.2
        shown_N = _ramp(given.values_N, center - width / 2, center + width / 2)
    else:  # C.11.2.1.2.1
        shown_N = _ramp(given.values_N, center - width / 2, center + width / 2 - 1)
    return _Values(shown_N, 0, 1, given.bits)


def _ramp(values_N: NDArray[np.float64], low: float, high: float) -> NDArray[np.float64]:
    ramp_N: NDArray[np.float64] = ((values_N - low) / max(high - low, _NARROWEST)).clip(0, 1)
    return ramp_N


@dataclass(frozen=True, slots=True)
class _Lut:
    """PS3.3 C.11.1.1: `entries_N` for the values from `first` on; a value outside takes the nearest."""

    first: int
    bits: int
    entries_N: NDArray[np.float64]

    @property
    def top(self) -> int:
        return (1 << self.bits) - 1

    def look_up(self, values_N: NDArray[np.float64]) -> NDArray[np.float64]:
        index_N = (np.rint(values_N) - self.first).clip(0, len(self.entries_N) - 1).astype(np.intp)
        return self.entries_N[index_N].clip(0, self.top)


def _lut(film: FileDataset, item: Dataset) -> _Lut:
    count, first, bits = (int(number) for number in item.LUTDescriptor)
    entries_N = _entries(film, item.LUTData, count or 1 << 16, bits)
    if not 1 <= bits <= 16 or not len(entries_N):
        raise RefusedError("corrupt", "a look-up table without entries of 1 to 16 bits")
    return _Lut(first, bits, entries_N.astype(np.float64))


def _entries(film: FileDataset, data: Any, count: int, bits: int) -> NDArray[Any]:
    """Entries of 8 bits are stored one per byte or one per 16-bit word; where the VR does not say, the length does."""
    if not isinstance(data, bytes):
        return np.atleast_1d(np.asarray(data, np.int64))[:count]
    if bits <= 8 and len(data) < 2 * count:
        return np.frombuffer(data, np.uint8)[:count]
    order = "<" if film.original_encoding[1] else ">"
    return np.frombuffer(data[: len(data) // 2 * 2], f"{order}u2")[:count]


def _number(film: FileDataset, keyword: str) -> float | None:
    """The first value of a decimal attribute; None where it is absent, empty or no finite number."""
    try:
        value = film.get(keyword)
        number = float(value[0] if isinstance(value, MutableSequence) else value)
    except (TypeError, ValueError, IndexError):
        return None
    return number if math.isfinite(number) else None

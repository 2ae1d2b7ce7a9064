"""Decode the bytes of a DICOM film to a `Radiograph`, or to a `Rejected` that says why not. Nothing here raises.

pydicom comes with the extra ``dicom`` and is imported when the first film is decoded. Its messages and those of its
plugins may quote a patient's attributes: they are neither passed on nor emitted as warnings or log lines. A codec may
still crash or hang the process on a hostile film: decode films from outside in `covseg_ray.radiograph.decoder_process`.
"""

from __future__ import annotations

import io
import logging
import math
import re
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from covseg_ray.radiograph.dicom.lut import grey_levels
from covseg_ray.radiograph.dicom.pixels import check_inflated, check_syntax, ends_early, stored_pixels
from covseg_ray.radiograph.film import Limits, Radiograph, RefusedError, Rejected, check_bytes, check_pixels

if TYPE_CHECKING:
    from pydicom import FileDataset

# Computed radiography; digital X-ray for presentation and for processing.
_FILMS = frozenset({"1.2.840.10008.5.1.4.1.1.1", "1.2.840.10008.5.1.4.1.1.1.1", "1.2.840.10008.5.1.4.1.1.1.1.1"})
# Secondary capture; its multi-frame kinds of grey bytes and of grey words, which may hold one frame.
_CAPTURES = frozenset({"1.2.840.10008.5.1.4.1.1.7", "1.2.840.10008.5.1.4.1.1.7.2", "1.2.840.10008.5.1.4.1.1.7.3"})
_MODALITIES = frozenset({"CR", "DX", "DR", "RG"})
_ROWS = 64  # of a film at once: few enough that they stay in the processor's cache
_ONE_AT_A_TIME = threading.Lock()


def decode_dicom(data: bytes, limits: Limits) -> Radiograph | Rejected:
    """Decode one film; never raises.

    A film is one frame of grey pixels, 1 to 16 bits, signed or not, of computed radiography, digital X-ray (for
    presentation or processing) or secondary capture, whose modality is CR, DX, DR or RG; the first two may leave the
    modality out. Its pixels come as `covseg_ray.radiograph.dicom.lut.grey_levels` says: uint8 up to 8 bits, uint16
    beyond, bright = dense. Pixel padding is treated like other pixels, and the film is not rotated.

    Read are all uncompressed syntaxes, deflated, RLE, JPEG of 8 bits, lossless JPEG, JPEG-LS, JPEG 2000 and HTJ2K,
    with or without preamble. `spacing_mm` is Pixel Spacing (calibrated where it differs), else Imager Pixel Spacing.
    """
    try:
        with suppress_messages():
            return _radiograph(data, limits)
    except RefusedError as refusal:
        return refusal.rejected
    except ImportError:
        return Rejected("unsupported", "a DICOM file: to read those, pip install 'covseg-ray[dicom]'")
    except MemoryError:
        return Rejected("too-large", "not enough memory to decode it")
    except Exception as error:  # noqa: BLE001  the decode boundary: pydicom raises a dozen unrelated types on bad bytes
        kind = f"{type(error).__module__}.{type(error).__name__}".removeprefix("builtins.")
        return Rejected("corrupt", f"{kind} while reading the DICOM file")


@contextmanager
def suppress_messages() -> Iterator[None]:
    """No warning and no log line of pydicom and its codecs: they may quote attributes. One thread at a time."""
    loggers = [logging.getLogger(name) for name in ("pydicom", "pylibjpeg", "openjpeg", "highdicom")]
    with _ONE_AT_A_TIME, warnings.catch_warnings():  # the filters of warnings belong to all threads
        warnings.simplefilter("ignore")
        levels = [logger.level for logger in loggers]
        for logger in loggers:
            logger.setLevel(logging.CRITICAL + 1)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def _radiograph(data: bytes, limits: Limits) -> Radiograph:
    from pydicom import dcmread

    check_bytes(data, limits)
    check_inflated(data, limits)
    stream = io.BytesIO(data)
    header = dcmread(stream, stop_before_pixels=True, force=True)
    if stream.tell() == len(data) and ends_early(header, data):
        raise RefusedError("truncated", f"the file ends after {len(data):,} bytes, inside its header")
    check_radiograph(header)
    _check_layout(header, limits)
    check_syntax(header)
    stored_HW = stored_pixels(header, data)
    return Radiograph(_to_grey_levels(header, stored_HW), _spacing(header), _instance_uid(header))


def check_radiograph(header: FileDataset) -> None:
    """Raises RefusedError for what is no radiograph by its SOP class and modality."""
    sop_class, modality = (str(header.get(keyword) or "").strip() for keyword in ("SOPClassUID", "Modality"))
    classes = _FILMS | _CAPTURES if modality else _FILMS
    if sop_class not in classes or (modality and modality not in _MODALITIES):
        raise RefusedError(
            "not-a-radiograph", "neither computed radiography nor digital X-ray, nor a capture of either, by its header"
        )


def _check_layout(header: FileDataset, limits: Limits) -> None:
    if int(header.get("NumberOfFrames") or 1) != 1:
        raise RefusedError("multi-frame", "it holds several frames, one film was expected")
    if int(header.SamplesPerPixel) != 1 or header.PhotometricInterpretation not in ("MONOCHROME1", "MONOCHROME2"):
        raise RefusedError("colour", "its pixels are not grey (MONOCHROME1 or MONOCHROME2)")
    height, width = int(header.Rows), int(header.Columns)
    if min(height, width) < 1:
        raise RefusedError("corrupt", f"it has {width} x {height} pixels by its header")
    check_pixels(width, height, limits)
    allocated, stored = int(header.BitsAllocated), int(header.BitsStored)
    if allocated not in (8, 16) or not 1 <= stored <= allocated or int(header.get("HighBit", stored - 1)) != stored - 1:
        raise RefusedError("unsupported", f"{stored} bits stored in {allocated}: not the lower bits of 8 or 16")


def _to_grey_levels(header: FileDataset, stored_HW: NDArray[np.integer]) -> NDArray[np.uint8] | NDArray[np.uint16]:
    """Map the pixels to grey levels by a table of every value from the least to the greatest, some rows at a time."""
    least, greatest = int(stored_HW.min()), int(stored_HW.max())
    levels_N = grey_levels(header, np.arange(least, greatest + 1))
    shown_HW = np.empty(stored_HW.shape, levels_N.dtype)
    for top in range(0, len(stored_HW), _ROWS):
        rows = slice(top, top + _ROWS)
        indices_HW = stored_HW[rows].astype(np.intp) - least
        levels_N.take(indices_HW, out=shown_HW[rows], mode="clip")  # another mode copies what it writes
    return shown_HW


def _spacing(header: FileDataset) -> tuple[float, float] | None:
    for keyword in ("PixelSpacing", "ImagerPixelSpacing"):
        try:
            rows_mm, columns_mm = (float(value) for value in header.get(keyword) or ())
        except (TypeError, ValueError):
            continue
        if min(rows_mm, columns_mm) > 0 and math.isfinite(rows_mm + columns_mm):
            return rows_mm, columns_mm
    return None


def _instance_uid(header: FileDataset) -> str | None:
    """The UID, None where it does not have the form of one: no other attribute is passed on."""
    uid = str(header.get("SOPInstanceUID") or "")
    return uid if re.fullmatch(r"[0-9.]{1,64}", uid) else None

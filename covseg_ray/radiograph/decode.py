"""Decode the bytes of a film to a `Radiograph`, or to a `Rejected` that says why not. Nothing here raises.

Pillow's plugin is chosen by the table of formats rather than by ``Image.open``: no other plugin can ever run, and the
only pixel limit is that of `Limits`, checked on the header before any pixel is decoded.
"""

from __future__ import annotations

import io
import struct
import zlib
from pkgutil import resolve_name
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.ImageFile import ImageFile
from PIL.TiffImagePlugin import PHOTOMETRIC_INTERPRETATION

from covseg_ray.radiograph.dicom.decode import decode_dicom
from covseg_ray.radiograph.film import Limits, Radiograph, RefusedError, Rejected, check_bytes, check_pixels
from covseg_ray.radiograph.formats import NOT_AN_IMAGE, PNG_SIGNATURE, UNKNOWN_FORMAT, InputFormat, recognise

LIMITS = Limits()
_TO_GREY = frozenset({"1", "LA", "RGB", "RGBA", "RGBX", "P", "PA", "CMYK", "YCbCr"})
_EXIF_ORIENTATION = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def decode(data: bytes, limits: Limits = LIMITS) -> Radiograph | Rejected:
    """Decode one file of `covseg_ray.radiograph.formats.FORMATS`; never raises.

    DICOM goes to `covseg_ray.radiograph.dicom.decode` and needs the extra ``dicom``. Of the others, 8 bits and less
    become uint8 (1 bit: 0 and 255), 16-bit grey stays uint16. Colour becomes luma (ITU-R BT.601, as Pillow's
    ``convert("L")``); alpha is dropped; 16-bit colour and 16-bit grey with alpha are reduced to 8 bits by Pillow. EXIF
    orientation is applied, WhiteIsZero TIFF inverted. 32-bit integers and floats pass when every value is a whole
    number from 0 to 65535. Files of several frames are refused, and the few layouts that Pillow cannot read
    (big-endian WhiteIsZero TIFF of 16 bits among them).
    """
    found = recognise(data)
    if found and found.plugin is None:
        return decode_dicom(data, limits)
    try:
        return Radiograph(_pixels(data, found, limits))
    except RefusedError as refusal:
        return refusal.rejected
    except Exception as error:  # noqa: BLE001  the decode boundary: Pillow raises a dozen unrelated types on bad bytes
        return _rejection(data, error)


def _pixels(data: bytes, found: InputFormat | None, limits: Limits) -> NDArray[np.uint8] | NDArray[np.uint16]:
    check_bytes(data, limits)
    if found is None or found.plugin is None:
        raise RefusedError(NOT_AN_IMAGE, UNKNOWN_FORMAT)
    plugin: type[ImageFile] = resolve_name(found.plugin)
    with plugin(io.BytesIO(data)) as image:
        _check_header(image, limits)
        if data.startswith(PNG_SIGNATURE):
            _check_png(data)
        image.load()
        return _to_array(image)


def _check_header(image: ImageFile, limits: Limits) -> None:
    check_pixels(*image.size, limits)
    try:
        image.seek(1)
    except EOFError:
        image.seek(0)
    else:
        raise RefusedError("unsupported", "the file holds several frames, one film was expected")


def _to_array(image: Image.Image) -> NDArray[np.uint8] | NDArray[np.uint16]:
    orientation = image.getexif().get(_EXIF_ORIENTATION, 1)
    # Pillow inverts WhiteIsZero itself up to 8 bits, and only there.
    inverted = getattr(image, "tag_v2", {}).get(PHOTOMETRIC_INTERPRETATION) == 0
    upright = image.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else image
    if upright.mode == "L":
        return np.array(upright)
    if upright.mode in _TO_GREY:
        return np.array(upright.convert("L"))
    if upright.mode.startswith("I;16"):
        pixels = np.array(upright).astype(np.uint16)
        return np.iinfo(np.uint16).max - pixels if inverted else pixels
    if upright.mode in ("I", "F") and not inverted:
        return _whole_numbers(np.asarray(upright))
    raise RefusedError("unsupported", f"pixels of Pillow mode {upright.mode!r}")


def _whole_numbers(values: NDArray[np.int32] | NDArray[np.float32]) -> NDArray[np.uint16]:
    fits = values.min() >= 0 and values.max() <= np.iinfo(np.uint16).max  # False for NaN as well
    pixels = values.astype(np.uint16) if fits else None
    if pixels is None or not np.array_equal(pixels, values):
        raise RefusedError("unsupported", f"{values.dtype} pixels that are not whole numbers from 0 to 65535")
    return pixels


def _check_png(data: bytes) -> None:
    """Check every chunk's checksum: Pillow skips those of the pixels, and a changed film must not pass."""
    position = len(PNG_SIGNATURE)
    while position + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, position)
        kind, end = data[position + 4 : position + 8], position + 8 + length
        if end + 4 > len(data):
            break
        if zlib.crc32(memoryview(data)[position + 4 : end]) != struct.unpack_from(">I", data, end)[0]:
            raise RefusedError("corrupt", f"PNG chunk {kind!r} fails its check sum")
        if kind == b"IEND":
            return
        position = end + 4
    raise RefusedError("truncated", f"the PNG ends after {len(data):,} bytes, before its last chunk")


def _rejection(data: bytes, error: Exception) -> Rejected:
    if isinstance(error, MemoryError):
        return Rejected("too-large", "not enough memory to decode it")
    detail = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    if isinstance(error, NotImplementedError) or "unknown pixel mode" in detail:
        return Rejected("unsupported", detail)
    cut = "truncated" in detail.lower() or isinstance(error, EOFError) or _ends_early(data)
    return Rejected("truncated" if cut else "corrupt", detail)


def _ends_early(data: bytes) -> bool:
    """Whether the end marker of a PNG or JPEG is missing, or the directory of a TIFF lies beyond the last byte."""
    if data.startswith(PNG_SIGNATURE):
        return b"IEND" not in data[-64:]
    if data.startswith(b"\xff\xd8"):
        return b"\xff\xd9" not in data[-64:]
    order: Literal["little", "big"] = "little" if data.startswith(b"II") else "big"
    return data[2:4] in (b"\x2a\x00", b"\x00\x2a") and int.from_bytes(data[4:8], order) >= len(data)

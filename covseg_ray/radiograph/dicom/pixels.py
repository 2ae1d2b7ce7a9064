"""The stored pixel values of a DICOM film, decompressed by pydicom with one decoder per transfer syntax."""

from __future__ import annotations

import io
import struct
import zlib
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from covseg_ray.radiograph.film import Limits, RefusedError

if TYPE_CHECKING:
    from pydicom import FileDataset

_DEFLATED = "1.2.840.10008.1.2.1.99"
_EXTENDED_JPEG = "1.2.840.10008.1.2.4.51"
# One decoder a syntax, so that a film's pixels never depend on which are installed; gdcm, which crashes most easily,
# has only what no other reads. Uncompressed pixels need none.
_DECODERS = {
    "1.2.840.10008.1.2": "",
    "1.2.840.10008.1.2.1": "",
    "1.2.840.10008.1.2.2": "",
    _DEFLATED: "",
    "1.2.840.10008.1.2.5": "pydicom",
    "1.2.840.10008.1.2.4.50": "pillow",
    _EXTENDED_JPEG: "pillow",
    "1.2.840.10008.1.2.4.57": "gdcm",
    "1.2.840.10008.1.2.4.70": "gdcm",
    "1.2.840.10008.1.2.4.80": "pyjpegls",
    "1.2.840.10008.1.2.4.81": "pyjpegls",
    "1.2.840.10008.1.2.4.90": "pylibjpeg",
    "1.2.840.10008.1.2.4.91": "pylibjpeg",
    "1.2.840.10008.1.2.4.201": "pylibjpeg",
    "1.2.840.10008.1.2.4.202": "pylibjpeg",
    "1.2.840.10008.1.2.4.203": "pylibjpeg",
}
_JPEG_2000 = b"\xff\x4f\xff\x51"  # SOC, SIZ: ISO/IEC 15444-1 A.4.1, A.5.1
_JPEG_FRAMES = frozenset({*range(0xC0, 0xD0), 0xF7}) - {0xC4, 0xC8, 0xCC}  # ITU-T T.81 B.1.1.3; SOF55 of T.87


def check_inflated(data: bytes, limits: Limits) -> None:
    """Inflate a deflated file with a size limit, before pydicom inflates it without one.

    Raises RefusedError where it has over `limits.max_bytes`, or ends early.
    """
    from pydicom.filereader import read_dataset, read_preamble

    stream = io.BytesIO(data)
    read_preamble(stream, force=True)
    meta = read_dataset(
        stream, is_implicit_VR=False, is_little_endian=True, stop_when=lambda tag, vr, length: tag >> 16 != 2
    )
    if meta.get("TransferSyntaxUID") != _DEFLATED:
        return
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    inflater.decompress(stream.read(), limits.max_bytes)
    if inflater.unconsumed_tail:
        raise RefusedError("too-large", f"over {limits.max_bytes:,} bytes once inflated, which is the limit")
    if not inflater.eof:
        raise RefusedError("truncated", f"the deflated file ends early, after {len(data):,} bytes")


def ends_early(header: FileDataset, data: bytes) -> bool:
    """Whether a file that was read to its end stops inside an element: pydicom then drops that element, or all of them.

    Call it before reading any value: pydicom then drops the length of the element.
    """
    from pydicom.dataelem import RawDataElement

    if _syntax(header) == _DEFLATED:
        return False  # places are those of the inflated file, which `check_inflated` found whole
    ends = {0: -1}  # by where the value begins; a sequence of undefined length is whole, or else nothing is left
    for element in header.elements():
        if isinstance(element, RawDataElement):
            ends[element.value_tell] = element.value_tell + element.length
        else:
            ends[element.file_tell or 0] = len(data)
    return ends[max(ends)] != len(data)


def check_syntax(header: FileDataset) -> None:
    """Raises RefusedError for a transfer syntax that no decoder here reads."""
    from pydicom.uid import UID

    syntax, bits = UID(_syntax(header)), int(header.BitsStored)
    if syntax not in _DECODERS or (syntax == _EXTENDED_JPEG and bits > 8):
        name = syntax.name if syntax.name != syntax else "a transfer syntax of no standard"
        raise RefusedError("unsupported", f"{name} of {bits} bits, which no decoder here reads")


def _syntax(header: FileDataset) -> str:
    """The transfer syntax UID; where the file gives none, that of the encoding in which pydicom could read it."""
    implicit, little = header.original_encoding
    guess = "1.2.840.10008.1.2" if implicit else "1.2.840.10008.1.2.1" if little else "1.2.840.10008.1.2.2"
    return str(header.file_meta.get("TransferSyntaxUID") or guess)


def stored_pixels(header: FileDataset, data: bytes) -> NDArray[np.integer]:
    """The stored values of the file's one frame, an integer of 8 or 16 bits [H, W]. Raises RefusedError."""
    from pydicom import dcmread
    from pydicom.pixels.decoders.base import get_decoder

    film = dcmread(io.BytesIO(data), force=True)
    _check_presence(film, data)
    syntax = _syntax(header)
    decoder = get_decoder(syntax)
    plugin = _DECODERS[syntax]
    if plugin and plugin not in decoder.available_plugins:
        raise RefusedError("unsupported", f"{decoder.UID.name}: to read it, pip install 'covseg-ray[dicom]'")
    _check_frame(film, decoder.UID.is_encapsulated)
    stored_HW: NDArray[np.integer]
    stored_HW, _ = decoder.as_array(film, index=0, raw=True, decoding_plugin=plugin)
    if stored_HW.itemsize > 2:
        raise RefusedError("corrupt", f"its compressed pixels have {8 * stored_HW.itemsize} bits")
    return stored_HW


def _check_presence(film: FileDataset, data: bytes) -> None:
    if "FloatPixelData" in film or "DoubleFloatPixelData" in film:
        raise RefusedError("unsupported", "its pixels are floating point numbers")
    if not len(film):  # pydicom drops all when compressed pixels have no end
        raise RefusedError("truncated", f"the file ends after {len(data):,} bytes, inside its pixels")
    if "PixelData" not in film:
        raise RefusedError("no-pixel-data", "a header without pixels")


def _check_frame(film: FileDataset, encapsulated: bool) -> None:
    """Pixels cut short; or a codestream of another size than the header's, which would be decoded whole first."""
    from pydicom.encaps import get_frame

    shape = int(film.Rows), int(film.Columns)
    if not encapsulated:
        wanted = shape[0] * shape[1] * film.BitsAllocated // 8
        if len(film.PixelData) < wanted:
            raise RefusedError("truncated", f"{len(film.PixelData):,} bytes of pixels where {wanted:,} belong")
        return
    declared = _codestream_shape(get_frame(film.PixelData, 0, number_of_frames=1))
    if declared and declared != shape:
        sizes = [" x ".join(map(str, each)) for each in (declared, shape)]
        raise RefusedError(
            "corrupt", f"its compressed pixels are {sizes[0]}, its header says {sizes[1]} (height x width)"
        )


def _codestream_shape(frame: bytes) -> tuple[int, int] | None:
    """Height and width as the header of a JPEG, JPEG-LS or JPEG 2000 codestream gives them; None for RLE."""
    start = frame[:200].find(_JPEG_2000)  # behind the boxes of a JP2 file, which do not belong here but occur
    if start >= 0:
        right, bottom, left, top = struct.unpack_from(">4I", frame, start + 8)
        return bottom - top, right - left
    if not frame.startswith(b"\xff\xd8"):
        return None
    position = 2
    while True:
        marker, length = struct.unpack_from(">HH", frame, position)
        if marker < 0xFF00:
            raise RefusedError("corrupt", "its compressed pixels do not begin with the segments of a JPEG")
        if marker & 0xFF in _JPEG_FRAMES:
            height, width = struct.unpack_from(">HH", frame, position + 5)
            return height, width
        position += 1 if marker == 0xFFFF else 2 + length  # a fill byte, or a whole segment

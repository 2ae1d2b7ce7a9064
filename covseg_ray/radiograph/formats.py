"""The file formats of a film, in ONE table: decoding, archives, the service and their error messages use it.

docs/develop/add-input-format.md says how to add one.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from dataclasses import dataclass

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
NOT_AN_IMAGE = "not-an-image"  # the reason for bytes of none of these formats
_LONGEST_FIRST_VALUE = 64  # bytes, of the first element of a DICOM file that has no preamble


@dataclass(frozen=True, slots=True)
class InputFormat:
    """`matches` tests the first bytes of a file (132 suffice). `plugin` is the class of Pillow that decodes it, as
    ``module:class``; a format without one is decoded by `covseg_ray.radiograph.dicom`.
    """

    name: str
    media_type: str
    matches: Callable[[bytes], bool]
    plugin: str | None = None


def is_dicom(data: bytes) -> bool:
    """Whether ``DICM`` follows a preamble, or the bytes begin as a file without one does, with group 2 or 8."""
    if data[128:132] == b"DICM":
        return True
    explicit = re.match(rb"[A-Z]{2}", data[4:6]) is not None
    if data[:2] in (b"\x02\x00", b"\x08\x00"):
        (length,) = struct.unpack("<I", data[4:8].ljust(4, b"\xff"))
        return explicit or length <= _LONGEST_FIRST_VALUE
    return explicit and data[:2] == b"\x00\x08"


def _starts_with(*signatures: bytes) -> Callable[[bytes], bool]:
    return lambda data: data.startswith(signatures)


FORMATS = (
    InputFormat("PNG", "image/png", _starts_with(PNG_SIGNATURE), "PIL.PngImagePlugin:PngImageFile"),
    InputFormat("JPEG", "image/jpeg", _starts_with(b"\xff\xd8\xff"), "PIL.JpegImagePlugin:JpegImageFile"),
    InputFormat(
        "TIFF",
        "image/tiff",
        _starts_with(b"II\x2a\x00", b"MM\x00\x2a", b"II\x2b\x00", b"MM\x00\x2b"),
        "PIL.TiffImagePlugin:TiffImageFile",
    ),
    InputFormat("DICOM", "application/dicom", is_dicom),
)
FORMAT_NAMES = f"{', '.join(each.name for each in FORMATS[:-1])} or {FORMATS[-1].name}"
UNKNOWN_FORMAT = f"the first bytes are not those of a {FORMAT_NAMES} file"


def recognise(data: bytes) -> InputFormat | None:
    """The format of a file by its first bytes, None where it is none of `FORMATS`."""
    # The last row first: the preamble of a DICOM file may be the header of a TIFF.
    return next((each for each in reversed(FORMATS) if each.matches(data)), None)

"""DICOM films made for tests. The patient in them is invented, and so that a leak shows, is called by one word."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    UID,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLSLossless,
    RLELossless,
)

from covseg_ray.radiograph.decode import decode
from covseg_ray.radiograph.film import Limits, Radiograph, Rejected

COMPUTED_RADIOGRAPHY = "1.2.840.10008.5.1.4.1.1.1"
DIGITAL_XRAY = "1.2.840.10008.5.1.4.1.1.1.1"
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
INSTANCE_UID = "1.2.826.0.1.3680043.8.498.1"
SECRET = "Zwackelmann"
RNG = np.random.default_rng(11)
GREY_HW = RNG.integers(0, 256, (45, 66), dtype=np.uint8)
DEEP_HW = RNG.integers(0, 65536, (45, 66), dtype=np.uint16)
_ENCODERS = {RLELossless: "pydicom", JPEGLSLossless: "pyjpegls", JPEG2000Lossless: "pylibjpeg"}


def film(pixels_HW: NDArray[np.integer], syntax: str = ExplicitVRLittleEndian, **attributes: Any) -> FileDataset:
    """A computed radiograph, MONOCHROME2, of all the bits of its array; `attributes` are set on it, None takes one out.

    Its pixels are uncompressed, in the byte order of `syntax`.
    """
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = UID(syntax)
    order = ">" if syntax == ExplicitVRBigEndian else "<"
    dataset = FileDataset(None, {}, file_meta=meta, preamble=bytes(128), is_little_endian=order == "<")
    bits = pixels_HW.dtype.itemsize * 8
    usual = {
        "SOPClassUID": COMPUTED_RADIOGRAPHY,
        "SOPInstanceUID": INSTANCE_UID,
        "StudyInstanceUID": "1.2.826.0.1.3680043.8.498.2",
        "SeriesInstanceUID": "1.2.826.0.1.3680043.8.498.3",
        "Modality": "CR",
        "PatientName": SECRET,
        "PatientID": SECRET,
        "InstitutionName": SECRET,
        "StudyDescription": SECRET,
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "Rows": pixels_HW.shape[0],
        "Columns": pixels_HW.shape[1],
        "BitsAllocated": bits,
        "BitsStored": bits,
        "PixelRepresentation": int(pixels_HW.dtype.kind == "i"),
        "PixelData": pixels_HW.astype(pixels_HW.dtype.newbyteorder(order)).tobytes() + bytes(pixels_HW.nbytes % 2),
    }
    for keyword, value in {**usual, **attributes}.items():
        if value is not None:
            setattr(dataset, keyword, value)
    if "HighBit" not in attributes:
        dataset.HighBit = dataset.BitsStored - 1
    dataset["PixelData"].VR = "OW" if bits > 8 else "OB"
    meta.MediaStorageSOPClassUID = dataset.get("SOPClassUID", COMPUTED_RADIOGRAPHY)
    meta.MediaStorageSOPInstanceUID = INSTANCE_UID
    return dataset


def encoded(dataset: FileDataset) -> bytes:
    with io.BytesIO() as file:
        dataset.save_as(file)
        return file.getvalue()


def compressed(dataset: FileDataset, syntax: str) -> FileDataset:
    dataset.compress(UID(syntax), encoding_plugin=_ENCODERS[UID(syntax)])  # gdcm, first by default, aborts on some
    return dataset


def wrapped(dataset: FileDataset, codestream: bytes, syntax: str) -> FileDataset:
    """The film with `codestream` for its pixels."""
    dataset.PixelData = encapsulate([codestream])
    dataset["PixelData"].VR = "OB"
    dataset["PixelData"].is_undefined_length = True
    dataset.file_meta.TransferSyntaxUID = UID(syntax)
    return dataset


def as_lossless_jpeg(pixels_HW: NDArray[np.integer], folder: Path) -> bytes:
    """gdcm alone encodes it, and only from one file to another."""
    import gdcm

    plain, lossless = folder / "plain.dcm", folder / "lossless.dcm"
    plain.write_bytes(encoded(film(pixels_HW)))
    reader, change, writer = gdcm.ImageReader(), gdcm.ImageChangeTransferSyntax(), gdcm.ImageWriter()
    reader.SetFileName(str(plain))
    assert reader.Read()
    change.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.JPEGLosslessProcess14_1))
    change.SetInput(reader.GetImage())
    assert change.Change()
    writer.SetFileName(str(lossless))
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    assert writer.Write()
    return lossless.read_bytes()


def as_jpeg(pixels_HW: NDArray[np.uint8], syntax: str = JPEGBaseline8Bit) -> FileDataset:
    with io.BytesIO() as file:
        Image.fromarray(pixels_HW).save(file, "JPEG", quality=95)
        return wrapped(film(pixels_HW), file.getvalue(), syntax)


def radiograph(data: bytes | FileDataset) -> Radiograph:
    shown = decode(data if isinstance(data, bytes) else encoded(data))
    assert isinstance(shown, Radiograph), shown
    assert shown.pixels.dtype in (np.uint8, np.uint16)
    assert shown.pixels.flags.writeable
    return shown


def pixels(data: bytes | FileDataset) -> NDArray[np.integer]:
    return radiograph(data).pixels


def refused(data: bytes | FileDataset, limits: Limits | None = None) -> Rejected:
    shown = decode(data if isinstance(data, bytes) else encoded(data), limits or Limits())
    assert isinstance(shown, Rejected), shown
    assert "\n" not in shown.detail
    assert SECRET not in shown.detail
    return shown


def hand_made_film(pixels_HW: NDArray[np.uint8]) -> bytes:
    """Implicit VR Little Endian by the letter of PS3.5, without preamble, file meta or pydicom."""

    def element(group: int, number: int, value: bytes) -> bytes:
        value += b"\0" * (len(value) % 2)
        return (
            b"".join(each.to_bytes(size, "little") for each, size in ((group, 2), (number, 2), (len(value), 4))) + value
        )

    def short(number: int) -> bytes:
        return number.to_bytes(2, "little")

    return b"".join(
        [
            element(0x0008, 0x0016, DIGITAL_XRAY.encode()),
            element(0x0008, 0x0018, INSTANCE_UID.encode()),
            element(0x0008, 0x0060, b"DX"),
            element(0x0018, 0x1164, b"0.15\\0.14"),
            element(0x0028, 0x0002, short(1)),
            element(0x0028, 0x0004, b"MONOCHROME1 "),
            element(0x0028, 0x0010, short(pixels_HW.shape[0])),
            element(0x0028, 0x0011, short(pixels_HW.shape[1])),
            element(0x0028, 0x0100, short(8)),
            element(0x0028, 0x0101, short(8)),
            element(0x0028, 0x0102, short(7)),
            element(0x0028, 0x0103, short(0)),
            element(0x7FE0, 0x0010, pixels_HW.tobytes()),
        ]
    )

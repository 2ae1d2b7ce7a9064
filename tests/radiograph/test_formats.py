from __future__ import annotations

import io

import numpy as np
from dicom_films import GREY_HW, encoded, film, hand_made_film
from PIL import Image

from covseg_ray.radiograph.decode import decode
from covseg_ray.radiograph.film import Radiograph, Rejected
from covseg_ray.radiograph.formats import FORMAT_NAMES, FORMATS, PNG_SIGNATURE, is_dicom, recognise


def film_of(name: str) -> bytes:
    if name == "DICOM":
        return encoded(film(GREY_HW))
    with io.BytesIO() as file:
        Image.fromarray(GREY_HW).save(file, name)
        return file.getvalue()


def test_a_film_of_each_format_is_recognised_by_its_first_bytes_and_decoded() -> None:
    for each in FORMATS:
        data = film_of(each.name)
        assert recognise(data[:132]) is each
        decoded = decode(data)
        assert isinstance(decoded, Radiograph)
        assert np.abs(decoded.pixels.astype(int) - GREY_HW).mean() < 16  # JPEG is lossy
    assert FORMAT_NAMES == "PNG, JPEG, TIFF or DICOM"
    assert len({each.media_type for each in FORMATS}) == len(FORMATS)


def test_other_bytes_are_of_no_format() -> None:
    for other in (b"", b"GIF89a", b"BM", b"%PDF-1.7", b"<html>", b"PK\x03\x04", b"\x1f\x8b\x08", bytes(200)):
        assert recognise(other) is None
    assert decode(b"GIF89a") == Rejected(
        "not-an-image", "the first bytes are not those of a PNG, JPEG, TIFF or DICOM file"
    )


def test_a_dicom_file_is_one_whatever_its_preamble_holds() -> None:
    for preamble in (b"II\x2a\x00", b"MM\x00\x2a", PNG_SIGNATURE):
        data = preamble.ljust(128, b"\0") + encoded(film(GREY_HW))[128:]
        assert recognise(data) is FORMATS[-1]


def test_dicom_with_and_without_a_preamble() -> None:
    assert is_dicom(encoded(film(GREY_HW)))
    assert is_dicom(encoded(film(GREY_HW))[132:])
    assert is_dicom(hand_made_film(GREY_HW))
    for other in (
        b"",
        b"\x08\x00",
        PNG_SIGNATURE + bytes(200),
        b"\x02\x00" + b"\xff" * 200,
        bytes(200),
        b"<html>",
    ):
        assert not is_dicom(other)

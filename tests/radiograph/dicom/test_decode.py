from __future__ import annotations

import io
import logging
import subprocess
import sys
import warnings
from collections.abc import Iterator

import numpy as np
import pydicom
import pydicom.data
import pytest
from dicom_films import (
    COMPUTED_RADIOGRAPHY,
    DEEP_HW,
    DIGITAL_XRAY,
    GREY_HW,
    INSTANCE_UID,
    SECONDARY_CAPTURE,
    SECRET,
    encoded,
    film,
    hand_made_film,
    pixels,
    radiograph,
    refused,
)
from pydicom.dataset import Dataset
from pydicom.uid import (
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
)

from covseg_ray.radiograph.decode import decode
from covseg_ray.radiograph.dicom.decode import decode_dicom
from covseg_ray.radiograph.film import Limits, Radiograph, Rejected


def test_a_file_without_preamble_or_meta() -> None:
    shown = radiograph(hand_made_film(GREY_HW))
    np.testing.assert_array_equal(shown.pixels, 255 - GREY_HW)
    assert shown.spacing_mm == (0.15, 0.14)
    assert shown.instance_uid == INSTANCE_UID
    for syntax in (ExplicitVRLittleEndian, ExplicitVRBigEndian):
        dataset = film(DEEP_HW, syntax)
        with io.BytesIO() as file:
            pydicom.dcmwrite(file, Dataset(dataset), implicit_vr=False, little_endian=syntax == ExplicitVRLittleEndian)
            np.testing.assert_array_equal(pixels(file.getvalue()), DEEP_HW)


@pytest.mark.parametrize(
    ("attributes", "spacing_mm"),
    [
        ({}, None),
        ({"ImagerPixelSpacing": [0.2, 0.1]}, (0.2, 0.1)),
        ({"ImagerPixelSpacing": [0.2, 0.1], "PixelSpacing": [0.14, 0.15]}, (0.14, 0.15)),
        ({"ImagerPixelSpacing": [0.2, 0.1], "PixelSpacing": [0, 0.15]}, (0.2, 0.1)),
        ({"PixelSpacing": [0.1]}, None),
        ({"PixelSpacing": ""}, None),
    ],
)
def test_spacing(attributes: dict[str, object], spacing_mm: tuple[float, float] | None) -> None:
    assert radiograph(film(GREY_HW, **attributes)).spacing_mm == spacing_mm


def test_an_instance_uid_that_is_none_is_not_passed_on() -> None:
    assert radiograph(film(GREY_HW)).instance_uid == INSTANCE_UID
    raw = encoded(film(GREY_HW)).replace(INSTANCE_UID.encode(), SECRET.ljust(len(INSTANCE_UID)).encode())
    assert radiograph(raw).instance_uid is None


@pytest.mark.parametrize(
    ("sop_class", "modality", "passes"),
    [
        (COMPUTED_RADIOGRAPHY, "CR", True),
        (COMPUTED_RADIOGRAPHY, None, True),
        (DIGITAL_XRAY, "DX", True),
        ("1.2.840.10008.5.1.4.1.1.1.1.1", "DX", True),
        (SECONDARY_CAPTURE, "CR", True),
        (SECONDARY_CAPTURE, "DX", True),
        (SECONDARY_CAPTURE, "RG", True),
        ("1.2.840.10008.5.1.4.1.1.7.2", "DX", True),
        (SECONDARY_CAPTURE, "OT", False),
        (SECONDARY_CAPTURE, None, False),
        (SECONDARY_CAPTURE, "XC", False),
        (COMPUTED_RADIOGRAPHY, "MG", False),
        ("1.2.840.10008.5.1.4.1.1.1.2", "MG", False),
        ("1.2.840.10008.5.1.4.1.1.2", "CT", False),
        ("1.2.840.10008.5.1.4.1.1.4", "MR", False),
        ("1.2.840.10008.5.1.4.1.1.6.1", "US", False),
        ("1.2.840.10008.5.1.4.1.1.128", "PT", False),
        (None, "CR", False),
    ],
)
def test_what_counts_as_a_radiograph(sop_class: str | None, modality: str | None, passes: bool) -> None:
    dataset = film(GREY_HW, SOPClassUID=sop_class, Modality=modality)
    if passes:
        np.testing.assert_array_equal(pixels(dataset), GREY_HW)
    else:
        assert refused(dataset).reason == "not-a-radiograph"


def test_refusals() -> None:
    assert refused(film(np.concatenate([GREY_HW, GREY_HW]), Rows=45, NumberOfFrames=2)).reason == "multi-frame"
    colour = film(GREY_HW, SamplesPerPixel=3, PhotometricInterpretation="RGB", PlanarConfiguration=0)
    assert refused(colour).reason == "colour"
    assert refused(film(GREY_HW, PhotometricInterpretation="PALETTE COLOR")).reason == "colour"
    assert refused(film(GREY_HW, BitsStored=6, HighBit=7)).reason == "unsupported"
    assert refused(film(GREY_HW, Rows=0)).reason == "corrupt"
    assert refused(film(GREY_HW, SamplesPerPixel=None)).reason == "corrupt"
    assert decode_dicom(b"", Limits()) == Rejected("empty", "the file holds no bytes")


def test_too_many_pixels_are_refused_from_the_header() -> None:
    data = encoded(film(GREY_HW, Rows=13_000, Columns=13_001))
    assert "13001 x 13000" in refused(data).detail
    assert refused(data).reason == "too-large"
    small = encoded(film(GREY_HW))
    assert isinstance(decode(small, Limits(len(small), GREY_HW.size)), Radiograph)
    assert refused(small, Limits(max_bytes=len(small) - 1)).reason == "too-large"
    assert refused(small, Limits(max_pixels=GREY_HW.size - 1)).reason == "too-large"


def broken_films() -> Iterator[bytes]:
    """Films with a word that must not get out in every place where pydicom may stumble over it."""
    raw = encoded(film(GREY_HW, WindowCenter="40.123456", WindowWidth="80.123456", NumberOfFrames="1"))
    for value in (b"40.123456", b"80.123456", b"MONOCHROME2", COMPUTED_RADIOGRAPHY.encode(), INSTANCE_UID.encode()):
        yield raw.replace(value, SECRET.encode().ljust(len(value)))
    for position in range(144, len(raw) - GREY_HW.size, 3):
        yield raw[:position] + SECRET.encode() + raw[position + len(SECRET) :]


def test_no_attribute_gets_out(caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> None:
    caplog.set_level(logging.DEBUG)
    outcomes = set()
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        for data in broken_films():
            shown = decode(data)
            outcomes.add(getattr(shown, "reason", "film"))
            assert SECRET not in repr(shown)
    assert {"film", "corrupt", "not-a-radiograph"} <= outcomes
    assert not warned
    assert not caplog.records
    assert capfd.readouterr() == ("", "")


def test_warnings_and_logs_are_as_before_afterwards(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="pydicom")
    before = list(warnings.filters)
    for data in (encoded(film(GREY_HW)), b"\x08\x00\x05\x00CS"):
        decode(data)
        assert (logging.getLogger("pydicom").level, list(warnings.filters)) == (logging.INFO, before)


WITHOUT_PYDICOM = """
import sys
sys.modules["pydicom"] = None
from covseg_ray.radiograph.decode import decode
for data in (sys.stdin.buffer.read(), b"<html>"):
    print(decode(data))
"""


def test_without_pydicom_a_film_says_what_to_install() -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_PYDICOM], input=encoded(film(GREY_HW)), capture_output=True, check=True
    )
    dicom, html = done.stdout.decode().splitlines()
    assert "unsupported" in dicom
    assert "pip install 'covseg-ray[dicom]'" in dicom
    assert "not-an-image" in html

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pydicom
import pydicom.data
import pytest
from dicom_films import (
    DEEP_HW,
    GREY_HW,
    as_jpeg,
    as_lossless_jpeg,
    compressed,
    encoded,
    film,
    pixels,
    radiograph,
    refused,
    wrapped,
)
from numpy.typing import NDArray
from PIL import Image
from pydicom.uid import (
    MPEG2MPML,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from covseg_ray.radiograph.film import Limits

SMOOTH_HW = np.add.outer(np.arange(40), np.arange(64)).astype(np.uint8)


@pytest.mark.parametrize("pixels_HW", [GREY_HW, GREY_HW[:7, :9], DEEP_HW])
@pytest.mark.parametrize(
    "syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian]
)
def test_full_depth_without_a_window_keeps_every_bit(pixels_HW: NDArray[np.integer], syntax: str) -> None:
    shown = pixels(film(pixels_HW, syntax))
    assert shown.dtype == pixels_HW.dtype
    np.testing.assert_array_equal(shown, pixels_HW)


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless, JPEG2000Lossless])
@pytest.mark.parametrize("pixels_HW", [GREY_HW, DEEP_HW, DEEP_HW.view(np.int16)])
def test_lossless_syntaxes_keep_every_bit(pixels_HW: NDArray[np.integer], syntax: str) -> None:
    dataset = film(pixels_HW)
    expected_HW = pixels(dataset)
    np.testing.assert_array_equal(pixels(compressed(dataset, syntax)), expected_HW)


@pytest.mark.parametrize("syntax", [JPEGBaseline8Bit, JPEGExtended12Bit])
def test_jpeg_is_read_as_pillow_reads_it(syntax: str) -> None:
    dataset = as_jpeg(SMOOTH_HW, syntax)
    codestream = pydicom.encaps.get_frame(dataset.PixelData, 0, number_of_frames=1)
    np.testing.assert_array_equal(pixels(dataset), np.asarray(Image.open(io.BytesIO(codestream))))


@pytest.mark.parametrize("pixels_HW", [GREY_HW, DEEP_HW])
def test_lossless_jpeg(pixels_HW: NDArray[np.integer], tmp_path: Path) -> None:
    data = as_lossless_jpeg(pixels_HW, tmp_path)
    assert pydicom.dcmread(io.BytesIO(data)).file_meta.TransferSyntaxUID == JPEGLosslessSV1
    np.testing.assert_array_equal(pixels(data), pixels_HW)
    general = data.replace(JPEGLosslessSV1.encode(), JPEGLossless.encode())  # of which the other is a special case
    np.testing.assert_array_equal(pixels(general), pixels_HW)


def test_syntaxes_without_a_decoder_are_named() -> None:
    assert "MPEG2" in refused(wrapped(film(GREY_HW), b"\0\0\1\xb3", MPEG2MPML)).detail
    extended = refused(wrapped(film(DEEP_HW, BitsStored=12), b"\xff\xd8", JPEGExtended12Bit))
    assert (extended.reason, "JPEG Extended" in extended.detail) == ("unsupported", True)
    private = refused(wrapped(film(GREY_HW), b"\0\0", "1.2.3.4.5"))
    assert (private.reason, "1.2.3.4.5" in private.detail) == ("unsupported", False)


def test_a_header_alone_has_no_pixels() -> None:
    for syntax in (ExplicitVRLittleEndian, DeflatedExplicitVRLittleEndian):
        dataset = film(GREY_HW, syntax)
        del dataset.PixelData
        assert refused(dataset).reason == "no-pixel-data"
    floats = film(GREY_HW)
    del floats.PixelData
    floats.FloatPixelData = GREY_HW.astype("<f4").tobytes()
    assert refused(floats).reason == "unsupported"


@pytest.mark.parametrize("share", [0.3, 0.5, 0.7, 0.9, 0.998])
@pytest.mark.parametrize(
    "syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian, DeflatedExplicitVRLittleEndian, RLELossless]
)
def test_truncated(syntax: str, share: float) -> None:
    data = encoded(compressed(film(DEEP_HW), syntax) if syntax == RLELossless else film(DEEP_HW, syntax))
    assert refused(data[: int(len(data) * share)]).reason == "truncated"


def test_every_cut_is_refused() -> None:
    data = encoded(film(GREY_HW[:6, :8]))
    for length in range(140, len(data)):
        assert refused(data[:length]).reason in ("truncated", "corrupt", "no-pixel-data", "not-a-radiograph"), length


def test_a_deflated_file_is_measured_inflated() -> None:
    data = encoded(film(np.zeros((1500, 1500), np.uint8), DeflatedExplicitVRLittleEndian))
    assert len(data) < 20_000
    assert refused(data, Limits(max_bytes=1_000_000)).reason == "too-large"
    assert radiograph(data).pixels.shape == (1500, 1500)


def test_a_codestream_of_another_size_is_not_decoded() -> None:
    jpeg = bytearray(encoded(as_jpeg(SMOOTH_HW)))
    place = jpeg.index(b"\xff\xc0") + 5
    jpeg[place : place + 4] = b"\xff\xff\xff\xff"
    assert refused(bytes(jpeg)).detail.startswith("its compressed pixels are 65535 x 65535")
    j2k = bytearray(encoded(compressed(film(DEEP_HW), JPEG2000Lossless)))
    place = j2k.index(b"\xff\x4f\xff\x51") + 8
    j2k[place : place + 8] = (60_000).to_bytes(4, "big") * 2
    assert refused(bytes(j2k)).detail.startswith("its compressed pixels are 60000 x 60000")
    assert refused(wrapped(film(GREY_HW), b"\xff\xd8 nothing", JPEGBaseline8Bit)).reason == "corrupt"

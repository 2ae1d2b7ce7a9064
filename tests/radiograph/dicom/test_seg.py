from __future__ import annotations

import io
import logging
import re
import shutil
import subprocess
import sys
import traceback
import warnings
from datetime import datetime, timedelta, timezone
from pathlib import Path

import highdicom
import numpy as np
import pydicom
import pytest
from dicom_films import DIGITAL_XRAY, INSTANCE_UID, SECONDARY_CAPTURE, SECRET, compressed, encoded, film
from numpy.typing import NDArray
from PIL import Image
from places import SHARED
from pydicom.dataset import FileDataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    SegmentationStorage,
)

import covseg_ray
from covseg_ray.errors import DatasetError
from covseg_ray.radiograph.dicom.seg import encode_seg

REAL_DICOM = SHARED / "data/dicom"
RNG = np.random.default_rng(5)
GREY_HW = RNG.integers(0, 256, (45, 67), dtype=np.uint8)  # 3,015 pixels: no whole number of bytes in bits
INFECTION_HW = (RNG.random((45, 67)) < 0.3).astype(np.uint8)
LUNG_HW = (RNG.random((45, 67)) < 0.7).astype(np.uint8)
BOTH = {"infection": INFECTION_HW, "lung": LUNG_HW}
MODEL_ID = "0123456789abcdef"
CREATED = datetime(2026, 11, 23, 9, 8, 7, 654321)


def seg(source: FileDataset | bytes, masks: dict[str, NDArray[np.uint8]] = BOTH) -> FileDataset:
    data = source if isinstance(source, bytes) else encoded(source)
    return pydicom.dcmread(io.BytesIO(encode_seg(data, masks, MODEL_ID, CREATED)))


def frames(segmentation: FileDataset) -> NDArray[np.uint8]:
    """Masks [S, H, W] out of packed bits (PS3.5 8.2), least significant first."""
    shape = int(segmentation.NumberOfFrames), segmentation.Rows, segmentation.Columns
    bits = np.unpackbits(np.frombuffer(segmentation.PixelData, np.uint8), bitorder="little")
    assert not bits[np.prod(shape) :].any(), "what fills up the last bytes is zero"
    return bits[: np.prod(shape)].reshape(shape)


def failing(source: FileDataset | bytes, masks: dict[str, NDArray[np.uint8]] = BOTH) -> str:
    with pytest.raises(DatasetError) as caught:
        seg(source, masks)
    assert SECRET not in str(caught.value)
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    return str(caught.value)


@pytest.mark.parametrize("masks", [BOTH, {"infection": INFECTION_HW}, {"lung": LUNG_HW, "infection": INFECTION_HW}])
def test_the_masks_come_back(masks: dict[str, NDArray[np.uint8]]) -> None:
    names = [name for name in ("infection", "lung") if name in masks]
    segmentation = seg(film(GREY_HW), masks)
    np.testing.assert_array_equal(frames(segmentation), np.stack([masks[name] for name in names]))
    np.testing.assert_array_equal(segmentation.pixel_array.reshape(-1, 45, 67), frames(segmentation))
    assert [item.SegmentLabel for item in segmentation.SegmentSequence] == names

    read = highdicom.seg.segread(io.BytesIO(encode_seg(encoded(film(GREY_HW)), masks, MODEL_ID, CREATED)))
    pixels_1HWS = read.get_pixels_by_source_instance([INSTANCE_UID])
    np.testing.assert_array_equal(pixels_1HWS[0], np.stack([masks[name] for name in names], axis=-1))


@pytest.mark.parametrize("shape", [(1, 9), (64, 64), (45, 67)])
@pytest.mark.parametrize("value", [0, 1])
def test_an_empty_or_full_mask_is_a_segment_too(value: int, shape: tuple[int, int]) -> None:
    mask_HW = np.full(shape, value, np.uint8)
    segmentation = seg(film(np.zeros(shape, np.uint8)), {"infection": mask_HW})
    np.testing.assert_array_equal(frames(segmentation)[0], mask_HW)
    assert len(segmentation.PixelData) % 2 == 0


def test_an_empty_segment_beside_another_keeps_its_frame() -> None:
    nothing_HW = np.zeros_like(LUNG_HW)
    segmentation = seg(film(GREY_HW), {"infection": nothing_HW, "lung": LUNG_HW})
    np.testing.assert_array_equal(frames(segmentation), np.stack([nothing_HW, LUNG_HW]))


def test_it_says_what_it_is_and_where_from() -> None:
    segmentation = seg(film(GREY_HW))
    assert segmentation.SOPClassUID == segmentation.file_meta.MediaStorageSOPClassUID == SegmentationStorage
    assert segmentation.StudyInstanceUID == film(GREY_HW).StudyInstanceUID
    assert segmentation.SeriesInstanceUID != film(GREY_HW).SeriesInstanceUID
    assert segmentation.PatientID == segmentation.PatientName == SECRET
    assert segmentation.ContentQualification == "RESEARCH"
    for item in segmentation.PerFrameFunctionalGroupsSequence:
        (source,) = item.DerivationImageSequence[0].SourceImageSequence
        assert source.ReferencedSOPInstanceUID == INSTANCE_UID
    (series,) = segmentation.ReferencedSeriesSequence
    assert series.SeriesInstanceUID == film(GREY_HW).SeriesInstanceUID
    infection, lung = segmentation.SegmentSequence
    for item in (infection, lung):
        (algorithm,) = item.SegmentationAlgorithmIdentificationSequence
        assert (algorithm.AlgorithmName, algorithm.AlgorithmVersion) == ("covseg-ray", covseg_ray.__version__)
        assert algorithm.AlgorithmParameters == f"model_id={MODEL_ID}"
        assert item.SegmentAlgorithmType == "AUTOMATIC"


def test_the_codes_are_those_of_the_standard() -> None:
    """PS3.16, CID 7150, 6102 and 7151, by value."""

    def code(sequence: pydicom.Sequence) -> tuple[str, str]:
        return sequence[0].CodeValue, sequence[0].CodingSchemeDesignator

    infection, lung = seg(film(GREY_HW)).SegmentSequence
    assert code(infection.SegmentedPropertyCategoryCodeSequence) == ("49755003", "SCT")
    assert code(infection.SegmentedPropertyTypeCodeSequence) == ("112121", "DCM")
    assert code(infection.AnatomicRegionSequence) == ("39607008", "SCT")
    assert code(lung.SegmentedPropertyCategoryCodeSequence) == ("91723000", "SCT")
    assert code(lung.SegmentedPropertyTypeCodeSequence) == ("39607008", "SCT")


@pytest.mark.parametrize(
    "attributes",
    [
        {},
        {"PixelSpacing": [0.14, 0.15]},
        {"ImagerPixelSpacing": [0.14, 0.15]},
        {"FrameOfReferenceUID": "1.2.826.0.1.3680043.8.498.9", "PixelSpacing": [0.14, 0.15]},
    ],
)
def test_no_geometry_is_made_up(attributes: dict[str, object]) -> None:
    source = film(GREY_HW, SOPClassUID=DIGITAL_XRAY, Modality="DX", PatientOrientation=["L", "F"], **attributes)
    segmentation = seg(source)
    text = str(segmentation)
    for keyword in ("Frame of Reference", "Spacing", "Image Position", "Image Orientation", "Slice Thickness"):
        assert keyword not in text
    assert segmentation.PatientOrientation == ["L", "F"]
    assert seg(film(GREY_HW)).PatientOrientation == ""
    highdicom.seg.segread(io.BytesIO(encode_seg(encoded(source), BOTH, MODEL_ID, CREATED)))


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian])
def test_films_of_other_encodings(syntax: str) -> None:
    source = film(GREY_HW, syntax, SOPClassUID=SECONDARY_CAPTURE, SpecificCharacterSet="ISO_IR 100")
    source.PatientName = "Müßiggang^Änne"
    segmentation = seg(source)
    assert segmentation.PatientName == "Müßiggang^Änne"
    np.testing.assert_array_equal(frames(segmentation)[1], LUNG_HW)
    assert len(seg(compressed(film(GREY_HW), JPEG2000Lossless)).SegmentSequence) == 2


def test_the_same_run_gives_the_same_bytes() -> None:
    source = encoded(film(GREY_HW))
    code = (
        "import sys, datetime, numpy as np; from covseg_ray.radiograph.dicom.seg import encode_seg;"
        "masks = np.unpackbits(np.frombuffer(bytes.fromhex(sys.argv[1]), np.uint8), count=6030).reshape(2, 45, 67);"
        "masks = dict(zip(('lung', 'infection'), masks));"
        f"sys.stdout.buffer.write(encode_seg(sys.stdin.buffer.read(), masks, {MODEL_ID!r}, {CREATED!r}))"
    )
    masks = np.packbits(np.stack([LUNG_HW, INFECTION_HW])).tobytes().hex()
    other = subprocess.run([sys.executable, "-c", code, masks], input=source, capture_output=True, check=True).stdout
    assert other == encode_seg(source, BOTH, MODEL_ID, CREATED)


def test_uids_tell_films_models_and_segments_apart() -> None:
    source = encoded(film(GREY_HW))
    other_film = encoded(film(GREY_HW, SOPInstanceUID="1.2.826.0.1.3680043.8.498.4"))
    files = [
        encode_seg(source, BOTH, MODEL_ID, CREATED),
        encode_seg(other_film, BOTH, MODEL_ID, CREATED),
        encode_seg(source, BOTH, MODEL_ID[::-1], CREATED),
        encode_seg(source, {"infection": INFECTION_HW}, MODEL_ID, CREATED),
    ]
    headers = [pydicom.dcmread(io.BytesIO(data)) for data in files]
    uids = {str(header[keyword].value) for header in headers for keyword in ("SOPInstanceUID", "SeriesInstanceUID")}
    assert len(uids) == 2 * len(files)
    assert all(re.fullmatch(r"2\.25\.[1-9]\d{0,38}", uid) for uid in uids)


def test_the_date_is_the_one_given() -> None:
    for created in (CREATED, CREATED.replace(tzinfo=timezone(timedelta(hours=2)))):
        header = pydicom.dcmread(io.BytesIO(encode_seg(encoded(film(GREY_HW)), BOTH, MODEL_ID, created)))
        assert (header.ContentDate, header.ContentTime) == ("20261123", "090807.654321")
        assert (header.InstanceCreationDate, header.InstanceCreationTime) == ("20261123", "090807.654321")
        assert str(header.ContributingEquipmentSequence[-1].ContributionDateTime).startswith("20261123090807.654321")


def test_what_no_seg_can_belong_to() -> None:
    with io.BytesIO() as file:
        Image.fromarray(GREY_HW).save(file, "PNG")
        assert "write its masks as PNG" in failing(file.getvalue())
    without = failing(film(GREY_HW, StudyInstanceUID=None, SOPInstanceUID=None))
    assert "StudyInstanceUID" in without
    assert "SOPInstanceUID" in without
    assert "SeriesInstanceUID" not in without
    assert "neither computed radiography" in failing(film(GREY_HW, Modality="CT"))
    assert failing(b"\x08\x00\x05\x00CS")


def test_masks_that_do_not_fit() -> None:
    source = film(GREY_HW)
    assert "the lung mask is 45 x 66, the film 45 x 67" in failing(source, {**BOTH, "lung": LUNG_HW[:, :66]})
    assert "beyond 0 and 1" in failing(source, {"infection": INFECTION_HW * 255})
    assert "heart" in failing(source, {**BOTH, "heart": LUNG_HW})
    assert "infection" in failing(source, {"lung": LUNG_HW})
    assert "infection" in failing(source, {})


def test_attributes_that_may_be_empty_may_be_missing() -> None:
    segmentation = seg(film(GREY_HW, PatientName=None, PatientID=None))
    assert (str(segmentation.PatientName), segmentation.PatientID, segmentation.StudyDate) == ("", "", "")


def test_no_attribute_gets_out(caplog: pytest.LogCaptureFixture) -> None:
    raw = encoded(film(GREY_HW, PatientSex="O", StudyDate="20200202", StudyID="1" * 12))
    secret = SECRET[:8].encode()
    caplog.set_level(logging.DEBUG)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        encode_seg(raw, BOTH, MODEL_ID, CREATED)
        encode_seg(raw.replace(b"1" * 12, b"\\" + secret + b"=\\="), BOTH, MODEL_ID, CREATED)
        with pytest.raises(DatasetError, match="breaks the standard") as caught:
            encode_seg(raw.replace(b"20200202", secret), BOTH, MODEL_ID, CREATED)
    assert SECRET[:8] not in "".join(traceback.format_exception(caught.value))
    assert not caplog.records
    assert not warned


@pytest.mark.skipif(not REAL_DICOM.is_dir(), reason=f"no real DICOM films at {REAL_DICOM}")
def test_real_films() -> None:
    for path in sorted(REAL_DICOM.glob("*.dcm")):
        source = pydicom.dcmread(path, stop_before_pixels=True)
        mask_HW = np.zeros((source.Rows, source.Columns), np.uint8)
        mask_HW[source.Rows // 3 : source.Rows // 2, 100:333] = 1
        data = encode_seg(path.read_bytes(), {"infection": mask_HW}, MODEL_ID, CREATED)
        pixels_1HWS = highdicom.seg.segread(io.BytesIO(data)).get_pixels_by_source_instance([source.SOPInstanceUID])
        np.testing.assert_array_equal(pixels_1HWS[0, ..., 0], mask_HW)


@pytest.mark.skipif(not shutil.which("dciodvfy"), reason="dciodvfy, of dicom3tools, is not installed")
def test_dciodvfy_finds_no_error(tmp_path: Path) -> None:
    path = tmp_path / "seg.dcm"
    path.write_bytes(encode_seg(encoded(film(GREY_HW)), BOTH, MODEL_ID, CREATED))
    done = subprocess.run(["dciodvfy", "-new", str(path)], capture_output=True, text=True, check=False)
    assert "Error" not in done.stderr
    assert "Segmentation" in done.stderr

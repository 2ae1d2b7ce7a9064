"""Real films, and the files that come with pydicom, against pydicom's own pipeline."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pydicom
import pydicom.data
import pytest
from dicom_films import (
    COMPUTED_RADIOGRAPHY,
    radiograph,
)
from numpy.typing import NDArray
from places import SHARED
from pydicom.dataset import FileDataset
from pydicom.pixels import apply_modality_lut, apply_voi_lut

from covseg_ray.radiograph.decode import decode
from covseg_ray.radiograph.film import Radiograph, Rejected

REAL_DICOM = SHARED / "data/dicom"

PYDICOM_FILES = Path(pydicom.data.__file__).parent / "test_files"

LOSSY = {"1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51", "1.2.840.10008.1.2.4.81", "1.2.840.10008.1.2.4.91"}


def by_pydicom(dataset: FileDataset) -> tuple[NDArray[np.float64], float]:
    """pydicom's own pipeline on the scale of ours, and how much of it one stored value makes."""
    low = -(2 ** (dataset.BitsStored - 1)) if dataset.PixelRepresentation else 0
    high = low + 2**dataset.BitsStored - 1
    slope, intercept = float(dataset.get("RescaleSlope", 1)), float(dataset.get("RescaleIntercept", 0))
    low, high = low * slope + intercept, high * slope + intercept
    top = 255 if dataset.BitsStored <= 8 else 65535
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        shown_HW = apply_voi_lut(apply_modality_lut(dataset.pixel_array, dataset), dataset)
    share_HW = (np.asarray(shown_HW, np.float64) - low) / (high - low)
    width = dataset.get("WindowWidth", high - low)
    width = width[0] if isinstance(width, pydicom.multival.MultiValue) else width
    share_HW = share_HW.clip(0, 1)
    return top * (1 - share_HW if dataset.PhotometricInterpretation == "MONOCHROME1" else share_HW), top * slope / width


def shared_films() -> list[Path]:
    return sorted(REAL_DICOM.glob("*.dcm")) if REAL_DICOM.is_dir() else []


@pytest.mark.skipif(not shared_films(), reason=f"no real DICOM films at {REAL_DICOM}")
@pytest.mark.parametrize("path", shared_films(), ids=lambda path: path.stem)
def test_real_films_are_as_pydicom_reads_them(path: Path) -> None:
    dataset = pydicom.dcmread(path)
    shown = radiograph(path.read_bytes())
    expected_HW, _ = by_pydicom(dataset)
    np.testing.assert_allclose(shown.pixels, expected_HW, atol=0.51)
    assert shown.instance_uid == dataset.SOPInstanceUID
    assert shown.spacing_mm == (tuple(map(float, dataset.PixelSpacing)) if "PixelSpacing" in dataset else None)


def pydicoms_grey_files() -> Iterator[FileDataset]:
    """Every file of one grey frame among those that come with pydicom, whatever it shows."""
    for path in sorted(PYDICOM_FILES.rglob("*")):
        if not path.is_file():
            continue
        dataset = pydicom.dcmread(path, force=True)
        one_frame = dataset.get("NumberOfFrames", 1) in (1, None, "")
        if one_frame and str(dataset.get("PhotometricInterpretation")).startswith("MONO") and "PixelData" in dataset:
            dataset.filename = str(path)
            yield dataset


@pytest.mark.filterwarnings("ignore")
def test_pydicoms_files_as_if_they_were_films() -> None:
    reasons: dict[str, list[str]] = {}
    shown_syntaxes = set()
    for dataset in pydicoms_grey_files():
        dataset.SOPClassUID, dataset.Modality = COMPUTED_RADIOGRAPHY, "CR"
        with io.BytesIO() as file:
            dataset.save_as(file, enforce_file_format=False)
            shown = decode(file.getvalue())
        name = Path(str(dataset.filename)).name
        if isinstance(shown, Rejected):
            reasons.setdefault(shown.reason, []).append(name)
            continue
        expected_HW, step = by_pydicom(dataset)
        syntax = dataset.file_meta.TransferSyntaxUID
        shown_syntaxes.add(syntax)
        np.testing.assert_allclose(
            shown.pixels, expected_HW, atol=0.51 + (1.01 * step if syntax in LOSSY else 0), err_msg=name
        )
    assert len(shown_syntaxes) >= 8
    assert reasons == {
        "unsupported": [
            "JPEG-lossy.dcm",  # JPEG Extended of 12 bits: the one decoder for it is under the GPL
            "JPGExtended.dcm",
            "liver_1frame.dcm",  # masks of 1 bit
            "liver_expb_1frame.dcm",
            "rtdose_1frame.dcm",  # 32 bits
            "rtdose_expb_1frame.dcm",
            "rtdose_rle_1frame.dcm",
        ],
        "corrupt": ["JPEG2000-embedded-sequence-delimiter.dcm"],
        "truncated": ["MR_truncated.dcm"],
    }


def test_of_pydicoms_files_only_radiographs_pass() -> None:
    passed = []
    for path in sorted(PYDICOM_FILES.rglob("*")):
        if path.is_file() and isinstance(decode(path.read_bytes()), Radiograph):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                passed.append(pydicom.dcmread(path, force=True).Modality)
    assert passed == ["CR", "CR", "CR"]

"""Write the masks of a DICOM film as a DICOM Segmentation (PS3.3 A.51), which viewers overlay on the film.

A projection has no position in space: the segments share the film's pixel grid, and no frame of reference, position,
orientation or spacing is invented for them.
"""

from __future__ import annotations

import io
import struct
import uuid
from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from covseg_ray import __version__
from covseg_ray.errors import DatasetError
from covseg_ray.radiograph.dicom.decode import check_radiograph, suppress_messages
from covseg_ray.radiograph.film import RefusedError
from covseg_ray.radiograph.formats import is_dicom

if TYPE_CHECKING:
    from highdicom.seg import Segmentation, SegmentDescription
    from pydicom import FileDataset

NAME = "covseg-ray"
SEGMENTS = ("infection", "lung")
_IDENTIFIERS = ("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID", "Rows", "Columns")
# Required, and may be empty (PS3.3 C.7.1.1, C.7.2.1); highdicom reads each of them from the film.
_MAY_BE_EMPTY = (
    "AccessionNumber",
    "PatientBirthDate",
    "PatientID",
    "PatientName",
    "PatientSex",
    "StudyDate",
    "StudyID",
    "StudyTime",
)
# What pydicom and highdicom raise on attributes that break the standard.
_INVALID_ATTRIBUTE = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError, struct.error)


def encode_seg(source: bytes, masks: Mapping[str, NDArray[np.uint8]], model_id: str, created: datetime) -> bytes:
    """A DICOM SEG file with one binary segment for each mask of 0 and 1, uint8 [H, W] as the film.

    `masks` has ``infection`` and may have ``lung``. An empty mask is an empty segment. The same film, masks, model and
    date give the same bytes: UIDs are derived from the film's SOP instance UID, the model and the segments' names.

    Raises:
        DatasetError: `source` is no DICOM film or lacks what a SEG must name, or a mask does not fit it.
    """
    if not is_dicom(source):
        raise DatasetError("a DICOM SEG belongs to a DICOM film, which this is not: write its masks as PNG")
    try:
        with suppress_messages():
            header = _header(source)
            names = _names(masks)
            pixels_1HWS = np.stack([_check_mask(header, name, masks) for name in names], axis=-1)[None]
            segmentation = _segmentation(header, pixels_1HWS, names, model_id, created)
            with io.BytesIO() as file:
                segmentation.save_as(file)
                return file.getvalue()
    except RefusedError as refusal:
        raise DatasetError(f"no DICOM SEG for this film: {refusal}") from None
    except ImportError as error:
        raise DatasetError("a DICOM SEG is written by highdicom: pip install 'covseg-ray[dicom]'") from error
    except _INVALID_ATTRIBUTE as error:  # its text may quote the patient's attributes
        kind = type(error).__name__
        raise DatasetError(
            f"no DICOM SEG for this film: an attribute of its patient, study or image breaks the standard ({kind})"
        ) from None


def header_bytes(source: bytes) -> bytes:
    """The part of a DICOM file before its pixels: all that `encode_seg` needs."""
    from pydicom import dcmread

    with suppress_messages(), io.BytesIO(source) as file:
        dcmread(file, stop_before_pixels=True, force=True)
        return source[: file.tell()]


def _header(source: bytes) -> FileDataset:
    """The attributes before the pixels, those that may be empty included. Left out are the frame of reference, which
    gives no position, and Pixel Spacing, which highdicom would write where it cannot be read without a slice thickness.
    """
    from pydicom import dcmread

    header = dcmread(io.BytesIO(source), stop_before_pixels=True, force=True)
    missing = [keyword for keyword in _IDENTIFIERS if not header.get(keyword)]
    if missing:
        raise RefusedError("corrupt", f"it lacks {', '.join(missing)}, which a SEG has to name")
    check_radiograph(header)
    for keyword in _MAY_BE_EMPTY:
        header.setdefault(keyword, "")
    for keyword in ("FrameOfReferenceUID", "PixelSpacing"):
        header.pop(keyword, None)
    return header


def _names(masks: Mapping[str, NDArray[np.uint8]]) -> list[str]:
    unknown = sorted(masks.keys() - set(SEGMENTS))
    if unknown or "infection" not in masks:
        raise DatasetError(f"masks for a DICOM SEG are infection and, if you like, lung; given: {', '.join(masks)}")
    return [name for name in SEGMENTS if name in masks]


def _check_mask(header: FileDataset, name: str, masks: Mapping[str, NDArray[np.uint8]]) -> NDArray[np.bool_]:
    mask_HW, shape = masks[name], (int(header.Rows), int(header.Columns))
    if mask_HW.shape != shape:
        sizes = [" x ".join(map(str, each)) for each in (mask_HW.shape, shape)]
        raise DatasetError(f"the {name} mask is {sizes[0]}, the film {sizes[1]} (height x width): restore it first")
    if mask_HW.max() > 1:
        raise DatasetError(f"the {name} mask holds values beyond 0 and 1: make it binary first")
    return mask_HW.astype(bool)


def _segmentation(
    header: FileDataset, pixels_1HWS: NDArray[np.bool_], names: list[str], model_id: str, created: datetime
) -> Segmentation:
    from highdicom import ContentQualificationValues
    from highdicom.seg import Segmentation, SegmentationTypeValues

    def uid(role: str) -> str:
        """PS3.5 B.2: a UUID under 2.25, here one made of a name (RFC 9562 5.5)."""
        name = "/".join([str(header.SOPInstanceUID), NAME, model_id, *names, role])
        return f"2.25.{uuid.uuid5(uuid.NAMESPACE_OID, name).int}"

    segmentation = Segmentation(
        source_images=[header],
        pixel_array=pixels_1HWS,
        segmentation_type=SegmentationTypeValues.BINARY,
        segment_descriptions=[_description(number, name, model_id) for number, name in enumerate(names, start=1)],
        series_instance_uid=uid("series"),
        series_number=1,
        sop_instance_uid=uid("instance"),
        instance_number=1,
        manufacturer=NAME,
        manufacturer_model_name=NAME,
        software_versions=__version__,
        device_serial_number=model_id,
        omit_empty_frames=False,
        content_label="INFECTION",
        content_description="COVID-19 infection outlined by research software",
        content_qualification=ContentQualificationValues.RESEARCH,
        content_date=created.date(),
        content_time=created.time(),
        series_description=f"{NAME} {model_id}",
    )
    _make_reproducible(segmentation, uid("dimensions"), created)
    # Type 2, which highdicom leaves out; the segments lie as the film does.
    segmentation.PatientOrientation = header.get("PatientOrientation") or ""
    segmentation.ContentCreatorName = ""
    return segmentation


def _description(number: int, name: str, model_id: str) -> SegmentDescription:
    """The infection is coded as the finding, an infiltrate of the lung, not as a disease."""
    from highdicom import AlgorithmIdentificationSequence
    from highdicom.seg import SegmentAlgorithmTypeValues, SegmentDescription
    from pydicom.sr.codedict import codes

    infection = name == "infection"
    return SegmentDescription(
        segment_number=number,
        segment_label=name,
        segmented_property_category=(
            codes.SCT.MorphologicallyAbnormalStructure if infection else codes.SCT.AnatomicalStructure
        ),
        segmented_property_type=codes.DCM.Infiltrate if infection else codes.SCT.Lung,
        algorithm_type=SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=AlgorithmIdentificationSequence(
            name=NAME,
            family=codes.DCM.ArtificialIntelligence,
            version=__version__,
            parameters={"model_id": model_id},
        ),
        anatomic_regions=[codes.SCT.Lung] if infection else None,
    )


def _make_reproducible(segmentation: Segmentation, dimensions_uid: str, created: datetime) -> None:
    """Replace one random UID of highdicom, its two readings of the clock, and its padding with the character 0."""
    from pydicom.valuerep import DA, DT, TM

    for item in (*segmentation.DimensionIndexSequence, *segmentation.DimensionOrganizationSequence):
        item.DimensionOrganizationUID = dimensions_uid
    segmentation.InstanceCreationDate = DA(created.date())
    segmentation.InstanceCreationTime = TM(created.time())
    segmentation.ContributingEquipmentSequence[-1].ContributionDateTime = DT(created)  # its own, after the film's
    bits = segmentation.NumberOfFrames * segmentation.Rows * segmentation.Columns
    length = -(-bits // 8)
    segmentation.PixelData = segmentation.PixelData[:length] + bytes(length % 2)

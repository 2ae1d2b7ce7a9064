"""What the model found, carried back to each film's own size: the row of the result table, and the files beside it.

Without torch, and apart from the model's actor: a film of 9 million pixels takes as long here as in the network.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from covseg_ray.errors import DatasetError
from covseg_ray.radiograph.dicom.seg import encode_seg
from covseg_ray.radiograph.findings import class_masks, measure
from covseg_ray.radiograph.geometry import Placement, Resize
from covseg_ray.radiograph.masks import encode_png1, overlay
from covseg_ray.radiograph.png import encode_png
from covseg_ray.storage.filesystem import join, write_bytes
from covseg_ray.storage.runs.result_table import SCHEMA

WRITABLE = ("masks", "overlays", "dicom-seg")
KEPT = (
    *("item", "image_id", "source", "input_sha256", "sop_instance_uid"),
    *("reason", "detail", "height", "width", "frontal"),
)


@dataclass(frozen=True)
class Outlining:
    """The model's geometry, classes and id, and which of ``WRITABLE`` to write beside the table, below ``out``."""

    out: str
    size: int
    resize: Resize
    classes: tuple[str, ...]
    model_id: str
    preprocess_version: str
    write: tuple[str, ...]
    created: datetime


def outline(predicted: pa.Table, how: Outlining) -> pa.Table:
    """Rows with the model's classes in ``square`` -> rows of the result table."""
    return pa.Table.from_pylist([_row(row, how) for row in predicted.to_pylist()], schema=SCHEMA)


def _row(row: Mapping[str, Any], how: Outlining) -> dict[str, Any]:
    result = {name: row[name] for name in KEPT}
    result |= {"model_id": how.model_id, "preprocess_version": how.preprocess_version}
    if row["square"] is None:
        return result | {"status": "rejected"}
    classes_SS = np.frombuffer(row["square"], np.uint8).reshape(how.size, how.size)
    masks = _masks(classes_SS, row["height"], row["width"], how)
    png = encode_png1(masks["infection"])
    detail = _write_beside(row, masks, png, classes_SS, how)
    return result | {"status": "ok", "mask": png, "detail": detail} | _measures(masks)


def _masks(classes_SS: NDArray[np.uint8], height: int, width: int, how: Outlining) -> dict[str, NDArray[np.uint8]]:
    return class_masks(classes_SS, Placement(height, width, how.size, how.resize), how.classes)


def _measures(masks: Mapping[str, NDArray[np.uint8]]) -> dict[str, Any]:
    found = measure(masks)
    told = json.dumps(asdict(found.severity)) if found.severity else None
    return {"infection_fraction": found.infection_fraction, "lung_fraction": found.lung_fraction, "severity": told}


def _write_beside(
    row: Mapping[str, Any],
    masks: Mapping[str, NDArray[np.uint8]],
    png: bytes,
    classes_SS: NDArray[np.uint8],
    how: Outlining,
) -> str | None:
    """Write what was asked for; the same film always writes the same files. Gives why a file could not be made."""
    if "masks" in how.write:
        write_bytes(join(how.out, "masks", f"{row['image_id']}.png"), png)
    if "overlays" in how.write:
        height, width = row["picture_height"], row["picture_width"]
        picture_HW = np.frombuffer(row["picture"], np.uint8).reshape(height, width)
        drawn_HW3 = overlay(picture_HW, _masks(classes_SS, height, width, how)["infection"])
        write_bytes(join(how.out, "overlays", f"{row['image_id']}.png"), encode_png(drawn_HW3))
    if row["dicom_header"] is None:
        return None
    try:
        segmentation = encode_seg(row["dicom_header"], masks, how.model_id, how.created)
    except DatasetError as error:
        return str(error)
    write_bytes(join(how.out, "dicom-seg", f"{row['image_id']}.dcm"), segmentation)
    return None

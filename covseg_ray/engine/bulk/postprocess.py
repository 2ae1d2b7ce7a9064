"""Map the model's classes back to each film's own size: rows of the result table, and optional files beside it.

No torch, and tasks of their own: a film of 9 million pixels takes as long here as in the network.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from covseg_ray.engine.bulk.read import KEPT, Options
from covseg_ray.errors import DatasetError
from covseg_ray.radiograph.dicom.seg import encode_seg
from covseg_ray.radiograph.findings import class_masks, measure
from covseg_ray.radiograph.geometry import Placement
from covseg_ray.radiograph.masks import encode_png, encode_png1, overlay
from covseg_ray.storage.filesystem import join, write_bytes
from covseg_ray.storage.runs.result_table import SCHEMA


def postprocess(predicted: pa.Table, options: Options) -> pa.Table:
    """Rows of ``PREDICTED`` -> rows of the result table."""
    return pa.Table.from_pylist([_row(row, options) for row in predicted.to_pylist()], schema=SCHEMA)


def _row(row: Mapping[str, Any], options: Options) -> dict[str, Any]:
    result = {name: row[name] for name in KEPT}
    result |= {"model_id": options.model_id, "preprocess_version": options.preprocess_version}
    if row["square"] is None:
        return result | {"status": "rejected"}
    classes_SS = np.frombuffer(row["square"], np.uint8).reshape(options.size, options.size)
    masks = _masks(classes_SS, row["height"], row["width"], options)
    png = encode_png1(masks["infection"])
    detail = _write_beside(row, masks, png, classes_SS, options)
    found = measure(masks)
    return result | {
        "status": "ok",
        "mask": png,
        "detail": detail,
        "infection_fraction": found.infection_fraction,
        "lung_fraction": found.lung_fraction,
        "severity": json.dumps(asdict(found.severity)) if found.severity else None,
        "expected_iou": row["expected_iou"],
    }


def _masks(classes_SS: NDArray[np.uint8], height: int, width: int, options: Options) -> dict[str, NDArray[np.uint8]]:
    return class_masks(classes_SS, Placement(height, width, options.size, options.resize), options.classes)


def _write_beside(
    row: Mapping[str, Any],
    masks: Mapping[str, NDArray[np.uint8]],
    png: bytes,
    classes_SS: NDArray[np.uint8],
    options: Options,
) -> str | None:
    """Write the requested files; the same film always writes the same files. Returns why DICOM SEG was not possible."""
    if "masks" in options.write:
        write_bytes(join(options.out, "masks", f"{row['image_id']}.png"), png)
    if "overlays" in options.write:
        height, width = row["picture_height"], row["picture_width"]
        picture_HW = np.frombuffer(row["picture"], np.uint8).reshape(height, width)
        drawn_HW3 = overlay(picture_HW, _masks(classes_SS, height, width, options)["infection"])
        write_bytes(join(options.out, "overlays", f"{row['image_id']}.png"), encode_png(drawn_HW3))
    if row["dicom_header"] is None:
        return None
    try:
        segmentation = encode_seg(row["dicom_header"], masks, options.model_id, options.created)
    except DatasetError as error:
        return str(error)
    write_bytes(join(options.out, "dicom-seg", f"{row['image_id']}.dcm"), segmentation)
    return None

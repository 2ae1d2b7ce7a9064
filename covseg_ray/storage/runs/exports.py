"""Export the results of bulk segmentation: a CSV table, PNG masks, COCO annotations.

Every export streams the result files one at a time. Existing files are never overwritten, and a table or a list of
annotations appears complete or not at all.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TextIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from covseg_ray import __version__
from covseg_ray.errors import DatasetError, UsageError
from covseg_ray.radiograph.contours import bounding_box, run_lengths
from covseg_ray.radiograph.masks import decode_png1
from covseg_ray.radiograph.severity import ZONES
from covseg_ray.storage.filesystem import exists, join, locate, translated, write_files
from covseg_ray.storage.runs.result_table import SCHEMA, check_items, read_summary, scan

CSV_FILE = "results.csv"
PNG_FOLDER = "masks"
COCO_FILE = "annotations.json"
ROWS_AT_ONCE = 256

_ROW_COLUMNS = [name for name in SCHEMA.names if name != "mask"]
_ZONES = [f"{side}-{zone}" for side in ("left", "right") for zone in ZONES]
_SEVERITY = ["whole", "left", "right", *_ZONES, "plausible"]
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
_INFECTION = {"id": 1, "name": "infection"}
_SEGMENTED = pc.field("status") == "ok"


def export_csv(out: str, target: str) -> int:
    """Write ``target``/results.csv from the results in ``out``; returns its rows, one an input.

    UTF-8 with RFC 4180's quotes and line ends. The columns are those of a result row but the mask; then those of the
    severity, ``severity_whole`` to ``severity_right_lower`` (shares of lung, 0 to 1) and ``severity_plausible`` (true
    or false). What is not known is empty. Text that a spreadsheet would take for a formula, since it begins with
    ``=``, ``+``, ``-``, ``@``, a tab or a carriage return, has a ``'`` before it; ``item`` names a row in any case.
    Raises UsageError where the file is there already, StorageError where no run has finished in ``out``.
    """
    _check_export(out, target, CSV_FILE)
    with _atomic_file(target, CSV_FILE) as file:
        writer = csv.writer(file)
        writer.writerow([*_ROW_COLUMNS, *(f"severity_{name.replace('-', '_')}" for name in _SEVERITY)])
        count = 0
        for row in _rows(table.sort_by("item") for table in scan(out, _ROW_COLUMNS)):
            writer.writerow([_cell(value) for value in (*row.values(), *_severity(row["severity"]))])
            count += 1
    return count


def export_png(out: str, target: str) -> int:
    """Write the mask of every film that was segmented in ``out`` as ``target``/masks/IMAGE_ID.png, 1 bit a pixel, at
    the film's own size; returns how many. A run cut short leaves the masks that it has written.

    Raises UsageError where the folder is there already, StorageError where no run has finished in ``out``.
    """
    _check_export(out, target, PNG_FOLDER)
    count = 0
    for batch in _batches(scan(out, ["image_id", "mask"], _SEGMENTED)):
        films = batch.to_pylist()
        write_files(join(target, PNG_FOLDER), {_mask_name(row["image_id"]): row["mask"] for row in films})
        count += len(films)
    return count


def export_coco(out: str, target: str) -> int:
    """Write ``target``/annotations.json from the results in ``out``, in COCO's format for object detection; returns its
    annotations, one for each film with infection.

    ``images`` are the films that were segmented, by ``item``. A segmentation is COCO's uncompressed run-length
    encoding, areas and boxes are in pixels of the film. Raises UsageError where the file is there already, StorageError
    where no run has finished in ``out``, DatasetError for a mask that cannot be read.
    """
    _check_export(out, target, COCO_FILE)
    head = {"info": {"description": f"COVID-19 infection outlined by covseg-ray {__version__}"}}
    with _atomic_file(target, COCO_FILE) as file:
        file.write(json.dumps({**head, "categories": [_INFECTION]}).removesuffix("}"))
        file.write(',\n"images": [')
        _write_list(file, _coco_images(out))
        file.write('],\n"annotations": [')
        count = _write_list(file, _coco_annotations(out))
        file.write("]}\n")
    return count


def _check_export(out: str, target: str, name: str) -> None:
    """Raise unless ``out`` holds every result of a finished run and ``target`` holds no such export."""
    summary = read_summary(out)
    if exists(join(target, name)):
        raise UsageError(f"{join(target, name)}: an export is there already; choose another folder, or delete it")
    check_items(out, summary["inputs"])


def _batches(tables: Iterable[pa.Table]) -> Iterator[pa.RecordBatch]:
    for table in tables:
        yield from table.to_batches(max_chunksize=ROWS_AT_ONCE)


def _rows(tables: Iterable[pa.Table]) -> Iterator[dict[str, Any]]:
    for batch in _batches(tables):
        yield from batch.to_pylist()


@contextmanager
def _atomic_file(target: str, name: str) -> Iterator[TextIO]:
    """A text file that appears in ``target`` once the block has ended without an error."""
    location = locate(join(target, name))
    with translated(location.uri):
        beside = Path(location.path).parent if location.is_local else None
        if beside is not None:
            beside.mkdir(parents=True, exist_ok=True)
        # Not opened in the bucket itself: closing such a file after an error would leave the half of it there.
        with TemporaryDirectory(dir=beside, prefix=".covseg-ray-") as folder:
            path = Path(folder, name)
            with path.open("w", encoding="utf-8", newline="") as file:
                yield file
            if beside is not None:
                path.replace(location.path)
            else:
                location.fs.put_file(str(path), location.path)


def _severity(text: str | None) -> list[Any]:
    found = json.loads(text) if text else {"zones": {}}
    return [found["zones"].get(name) if name in _ZONES else found.get(name) for name in _SEVERITY]


def _cell(value: Any) -> Any:
    if isinstance(value, bool):
        return str(value).lower()
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value


def _mask_name(image_id: str) -> str:
    """The file name of a mask in the folder of masks. Raises DatasetError for an id that would escape the folder."""
    if {"", ".", ".."} & set(image_id.split("/")) or "\\" in image_id or "\0" in image_id:
        raise DatasetError(
            f"image id {image_id!r} is no safe path; these results were changed: segment the films again"
        )
    return f"{image_id}.png"


def _coco_images(out: str) -> Iterator[dict[str, Any]]:
    for row in _rows(scan(out, ["item", "image_id", "height", "width"], _SEGMENTED)):
        yield {"id": row["item"], "file_name": row["image_id"], "height": row["height"], "width": row["width"]}


def _coco_annotations(out: str) -> Iterator[dict[str, Any]]:
    for row in _rows(scan(out, ["item", "image_id", "height", "width", "mask"], _SEGMENTED)):
        mask_HW = _mask(out, row)
        if mask_HW.any():
            yield _coco_annotation(row["item"], mask_HW)


def _mask(out: str, row: dict[str, Any]) -> NDArray[np.uint8]:
    try:
        mask_HW = decode_png1(row["mask"])
    except DatasetError as error:
        raise DatasetError(f"{out}: {row['image_id']}: {error}") from error
    if mask_HW.shape != (row["height"], row["width"]):
        raise DatasetError(
            f"{out}: {row['image_id']}: a mask of {mask_HW.shape} on a film of {(row['height'], row['width'])}; "
            "segment the films again"
        )
    return mask_HW


def _coco_annotation(item: int, mask_HW: NDArray[np.uint8]) -> dict[str, Any]:
    rows, columns = bounding_box(mask_HW)
    return {
        "id": item + 1,  # COCO's own evaluation treats annotation 0 as missing
        "image_id": item,
        "category_id": _INFECTION["id"],
        "segmentation": {"size": list(mask_HW.shape), "counts": run_lengths(mask_HW).tolist()},
        "area": int(mask_HW.sum()),
        "bbox": [columns.start, rows.start, columns.stop - columns.start, rows.stop - rows.start],
        "iscrowd": 1,
    }


def _write_list(file: TextIO, items: Iterable[dict[str, Any]]) -> int:
    count = 0
    for count, item in enumerate(items, 1):
        file.write(",\n" if count > 1 else "\n")
        file.write(json.dumps(item, separators=(",", ":")))
    return count

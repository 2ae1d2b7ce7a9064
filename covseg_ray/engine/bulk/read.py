"""Read the inputs of an archive, decode them in a child process and resize them to the model's input.

No torch: read tasks start faster without it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from itertools import groupby, islice
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from ray.data import DataContext, Datasource, ReadTask
from ray.data.block import BlockMetadata

from covseg_ray.radiograph.decoder_process import DecodingChild
from covseg_ray.radiograph.dicom.seg import header_bytes
from covseg_ray.radiograph.film import Radiograph, Rejected
from covseg_ray.radiograph.frontal_check import frontal, reject_unlike
from covseg_ray.radiograph.geometry import Resize, shrink, standardise
from covseg_ray.storage.archives.dataset_rows import read_rows
from covseg_ray.storage.archives.members import Member
from covseg_ray.storage.archives.read import read_members
from covseg_ray.storage.runs import result_table
from covseg_ray.storage.runs.worklist import SCHEMA, Worklist, parse_members, read_file

ROWS_PER_TABLE = 16  # of a task's output: few, so that the next stage starts early
PICTURE_SIDE = 1024  # at most, for overlays
WRITABLE = ("masks", "overlays", "dicom-seg")
KEPT = (  # columns of the result table that a film has before it is predicted
    *("item", "image_id", "source", "input_sha256", "sop_instance_uid"),
    *("reason", "detail", "height", "width", "frontal"),
)
LOADED = pa.schema(
    [
        *(result_table.SCHEMA.field(name) for name in KEPT),
        pa.field("square", pa.binary()),
        pa.field("picture", pa.binary()),
        pa.field("picture_height", pa.int32()),
        pa.field("picture_width", pa.int32()),
        pa.field("dicom_header", pa.binary()),
    ]
)
PREDICTED = LOADED.append(result_table.SCHEMA.field("expected_iou"))  # with classes in place of the film in ``square``


@dataclass(frozen=True)
class Options:
    """What every stage knows of its run: the model's geometry, classes and id, which of ``WRITABLE`` to write beside
    the table, below ``out``, when the run was ``created``, and whether films that fail the frontal check are rejected.
    """

    out: str
    size: int
    resize: Resize
    classes: tuple[str, ...]
    model_id: str
    preprocess_version: str
    write: tuple[str, ...]
    created: datetime
    reject_unlike: bool = False

    @property
    def film_bytes(self) -> int:
        """Upper bound of the bytes of a film's row, text columns excluded."""
        return self.size**2 + (PICTURE_SIDE**2 if "overlays" in self.write else 0)


class ListingDatasource(Datasource):
    """An archive's listing as a Ray Data source, rows of ``worklist.SCHEMA``: a task for each of its files at ``out``
    that has unfinished items. ``ray.data.read_parquet`` would combine files up to 128 MiB, the listing of a million
    films, into one task. ``finished_I`` are the finished items, int64, which Ray Data drops."""

    def __init__(self, out: str, listing: Worklist, finished_I: NDArray[np.int64]) -> None:
        super().__init__()
        sizes_F = np.diff([*listing.starts, listing.inputs])
        done_F = np.bincount(np.searchsorted(listing.starts, finished_I, "right") - 1, minlength=len(sizes_F))
        self._out, self._rows = out, {int(file): int(sizes_F[file]) for file in np.flatnonzero(done_F < sizes_F)}

    def estimate_inmemory_data_size(self) -> int | None:
        return None

    def get_read_tasks(
        self, parallelism: int, per_task_row_limit: int | None = None, data_context: DataContext | None = None
    ) -> list[ReadTask]:
        return [
            ReadTask(partial(_listed, self._out, file), BlockMetadata(rows, None, None, None), SCHEMA)
            for file, rows in self._rows.items()
        ]


def _listed(out: str, file: int) -> list[pa.Table]:
    return [read_file(out, file)]


def load(listed: pa.Table, options: Options) -> Iterator[pa.Table]:
    """Rows of a listing -> rows of ``LOADED``; a rejected input has a reason and no square."""
    rows = listed.to_pylist()
    items = iter([row["item"] for row in rows])
    loaded = ({"item": item, **row} for item, row in zip(items, _rows(parse_members(rows), options), strict=True))
    while rows := list(islice(loaded, ROWS_PER_TABLE)):
        yield pa.Table.from_pylist(rows, schema=LOADED)


def read_films(members: Iterable[Member]) -> Iterator[tuple[Member, bytes | None, Radiograph | Rejected]]:
    """Each member's film, and its file's bytes where there were any, in the order asked for."""
    with DecodingChild() as child:
        for is_row, run in groupby(members, key=lambda member: member.kind == "shard"):
            if is_row:
                yield from ((member, None, film) for member, film in read_rows(run))
                continue
            for member, data in read_members(run):
                yield member, *((None, data) if isinstance(data, Rejected) else (data, child.decode(data)))


def _rows(members: Iterable[Member], options: Options) -> Iterator[dict[str, Any]]:
    for member, data, film in read_films(members):
        row: dict[str, Any] = {"image_id": member.image_id, "source": member.container}
        if data is not None:
            row["input_sha256"] = hashlib.sha256(data).hexdigest()
        if isinstance(film, Rejected):
            yield row | {"reason": film.reason, "detail": film.detail}
            continue
        if data is None:  # a row of a shard holds pixels, no file
            row["input_sha256"] = hashlib.sha256(film.pixels.tobytes()).hexdigest()
        yield row | _film(film, data, options)


def _film(film: Radiograph, data: bytes | None, options: Options) -> dict[str, Any]:
    square_SS, placement = standardise(film.pixels, options.size, options.resize)
    likeness = frontal(square_SS, placement)
    row = {
        "sop_instance_uid": film.instance_uid,
        "height": placement.height,
        "width": placement.width,
        "frontal": likeness,
    }
    if options.reject_unlike and (rejected := reject_unlike(likeness)):
        return row | {"reason": rejected.reason, "detail": rejected.detail}
    return row | {"square": square_SS.tobytes()} | _extras(film, data, options)


def _extras(film: Radiograph, data: bytes | None, options: Options) -> dict[str, Any]:
    extras: dict[str, Any] = {}
    if "overlays" in options.write:
        picture_HW = shrink(film.pixels, PICTURE_SIDE)
        extras["picture"] = picture_HW.tobytes()
        extras["picture_height"], extras["picture_width"] = picture_HW.shape
    if "dicom-seg" in options.write and film.instance_uid is not None and data is not None:
        extras["dicom_header"] = header_bytes(data)
    return extras

"""The result table of bulk segmentation: one row per input, in Parquet files under ``OUT/results``."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from covseg_ray.errors import CovsegError, StorageError, first_line
from covseg_ray.storage.filesystem import exists, join, list_files, locate, read_bytes, translated

RESULTS = "results"
SUMMARY = "summary.json"
SCHEMA = pa.schema(
    [
        pa.field("item", pa.int64(), nullable=False),
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("input_sha256", pa.string()),
        pa.field("sop_instance_uid", pa.string()),
        pa.field("status", pa.string(), nullable=False),
        pa.field("reason", pa.string()),
        pa.field("detail", pa.string()),
        pa.field("height", pa.int32()),
        pa.field("width", pa.int32()),
        pa.field("frontal", pa.float32()),
        pa.field("infection_fraction", pa.float64()),
        pa.field("lung_fraction", pa.float64()),
        pa.field("severity", pa.string()),
        pa.field("expected_iou", pa.float64()),
        pa.field("mask", pa.binary()),
        pa.field("model_id", pa.string(), nullable=False),
        pa.field("preprocess_version", pa.string(), nullable=False),
    ]
)


@dataclass(frozen=True, slots=True)
class Tally:
    """How many inputs ended as ``ok`` and as ``rejected``, the latter by reason."""

    ok: int
    reasons: dict[str, int]

    @property
    def rejected(self) -> int:
        return sum(self.reasons.values())


def scan(out: str, columns: Sequence[str], where: pc.Expression | None = None) -> Iterator[pa.Table]:
    """The columns of the result files, one file at a time, in the order of their names; with ``where``, of the rows
    that match, and a file that holds none is not read."""
    for name in list_files(join(out, RESULTS)):
        if name.endswith(".parquet"):
            location = locate(join(out, RESULTS, name))
            with translated(location.uri), location.fs.open(location.path, "rb") as file:
                try:
                    yield pq.read_table(file, columns=list(columns), filters=where)
                except pa.ArrowException as error:
                    raise StorageError(
                        f"{location.uri}: not the Parquet that was written ({first_line(error)}); "
                        "segment into another folder"
                    ) from error


def read_numbers(out: str, column: str) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The items of segmented films with a value in ``column``, and the values."""
    tables = list(scan(out, ("item", column), pc.field(column).is_valid() & pc.field("reason").is_null()))
    items, numbers = ([table[name].to_numpy() for table in tables] for name in ("item", column))
    return np.concatenate([np.empty(0, np.int64), *items]), np.concatenate([np.empty(0), *numbers])


def tally(out: str) -> Tally:
    """Count the results that are there, whether or not the run is complete."""
    counts: Counter[str | None] = Counter()
    for table in scan(out, ["reason"]):
        counts.update(_by_reason(table))
    return _tally(counts)


def _by_reason(table: pa.Table) -> dict[str | None, int]:
    return {pair["values"]: pair["counts"] for pair in table["reason"].value_counts().to_pylist()}


def _tally(counts: Counter[str | None]) -> Tally:
    ok = counts.pop(None, 0)
    return Tally(ok, {str(reason): count for reason, count in counts.most_common()})


def check_items(out: str, inputs: int) -> Tally:
    """Count the results. Raises CovsegError unless each item from 0 to ``inputs`` - 1 is there once, and no other."""
    seen_I = np.zeros(inputs, np.int32)
    unknown = 0
    counts: Counter[str | None] = Counter()
    for table in scan(out, ["item", "reason"]):
        counts.update(_by_reason(table))
        items = table["item"].to_numpy()
        known = items[(items >= 0) & (items < inputs)]
        np.add.at(seen_I, known, 1)
        unknown += len(items) - len(known)
    lost, repeated = int((seen_I == 0).sum()), int((seen_I > 1).sum())
    if lost or repeated or unknown:
        raise CovsegError(
            f"{out}: of {inputs:,} inputs {lost:,} are missing and {repeated:,} stand more than once in {RESULTS}/, "
            f"and {unknown:,} rows are of no input; keep the folder and report this, and segment into another one"
        )
    return _tally(counts)


def read_summary(out: str) -> dict[str, Any]:
    """The content of ``summary.json``. Raises StorageError where no run has finished."""
    if not exists(join(out, SUMMARY)):
        raise StorageError(f"{out}: no finished run there (no {SUMMARY}); run covseg-ray segment to its end first")
    try:
        document: dict[str, Any] = json.loads(read_bytes(join(out, SUMMARY)))
    except ValueError as error:
        raise StorageError(f"{join(out, SUMMARY)}: damaged; delete it and give the run's command again") from error
    return document

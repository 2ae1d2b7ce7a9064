"""The table that bulk segmentation leaves: one row an input, in Parquet files under ``OUT/results``."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from covseg_ray.errors import CovsegError, StorageError
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
        pa.field("infection_fraction", pa.float64()),
        pa.field("lung_fraction", pa.float64()),
        pa.field("severity", pa.string()),
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


def scan(out: str, columns: Sequence[str]) -> Iterator[pa.Table]:
    """The columns of the result files, a file at a time, in the order of their names."""
    for name in list_files(join(out, RESULTS)):
        if name.endswith(".parquet"):
            location = locate(join(out, RESULTS, name))
            with translated(location.uri), location.fs.open(location.path, "rb") as file:
                yield pq.read_table(file, columns=list(columns))


def tally(out: str) -> Tally:
    """Count what is there, however far the run has come."""
    counts: Counter[str | None] = Counter()
    for table in scan(out, ["reason"]):
        counts.update(table["reason"].to_pylist())
    ok = counts.pop(None, 0)
    return Tally(ok, {str(reason): count for reason, count in counts.most_common()})


def check_ledger(out: str, inputs: int) -> None:
    """Raise CovsegError unless items 0 to ``inputs`` - 1 stand in the results once each."""
    seen_I = np.zeros(inputs, np.uint8)
    for table in scan(out, ["item"]):
        np.add.at(seen_I, table["item"].to_numpy(), 1)
    lost, repeated = int((seen_I == 0).sum()), int((seen_I > 1).sum())
    if lost or repeated:
        raise CovsegError(
            f"{out}: of {inputs:,} inputs {lost:,} are missing and {repeated:,} stand more than once in {RESULTS}/; "
            "keep the folder and report this, and segment into another one"
        )


def read_summary(out: str) -> dict[str, Any]:
    """What ``summary.json`` holds. Raises StorageError where no run has ended."""
    if not exists(join(out, SUMMARY)):
        raise StorageError(f"{out}: no finished run there (no {SUMMARY}); run covseg-ray segment to its end first")
    document: dict[str, Any] = json.loads(read_bytes(join(out, SUMMARY)))
    return document

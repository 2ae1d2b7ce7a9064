"""Result tables of bulk segmentation: rows to write, and what a run wrote."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from covseg_ray.storage.filesystem import list_files, read_bytes, write_bytes
from covseg_ray.storage.runs.result_table import SCHEMA


def result(item: int, reason: str | None = None, **changes: Any) -> dict[str, Any]:
    """A result row; rejected where there is a reason."""
    row: dict[str, Any] = dict.fromkeys(SCHEMA.names)
    row |= {
        "item": item,
        "image_id": f"film-{item}.png",
        "source": f"/films/film-{item}.png",
        "input_sha256": "ab" * 32,
    }
    row |= {"status": "rejected" if reason else "ok", "reason": reason, "model_id": "m" * 64, "preprocess_version": "1"}
    return row | ({"detail": "cut"} if reason else {"height": 3, "width": 4, "infection_fraction": 0.0}) | changes


def write_results(out: str, *files: Sequence[dict[str, Any]]) -> str:
    for number, rows in enumerate(files):
        buffer = pa.BufferOutputStream()
        pq.write_table(pa.Table.from_pylist(list(rows), schema=SCHEMA), buffer)
        write_bytes(f"{out}/results/{number:03d}_part.parquet", buffer.getvalue().to_pybytes())
    return out


def rows_by_item(out: str) -> dict[int, tuple[Any, ...]]:
    """Every row by its item; an item that stands twice is an error."""
    rows: dict[int, tuple[Any, ...]] = {}
    for name in list_files(out):
        if name.startswith("results/"):
            for row in pq.read_table(io.BytesIO(read_bytes(f"{out}/{name}"))).to_pylist():
                assert row["item"] not in rows, "an input stands twice"
                rows[row["item"]] = tuple(row.values())
    return rows

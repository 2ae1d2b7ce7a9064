"""Write films as Parquet shards, with a ``dataset.json`` that lists them.

Pixels are plain binary: no compression, no dictionary, no statistics, but page checksums. Rows are sorted by a hash of
their ``image_id``, so that every file is an unbiased sample of its split, and the same films give the same bytes.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from covseg_ray.errors import DatasetError
from covseg_ray.radiograph.geometry import Resize
from covseg_ray.radiograph.masks import encode_png, encode_png1
from covseg_ray.storage.datasets.info import DATASET_FILE, SCHEMA, DatasetInfo, Reject, Shard, source_name
from covseg_ray.storage.filesystem import create_bytes, delete, exists, join, list_files, write_bytes

FILE_BYTES, MIN_FILES = 192 * 2**20, 8
GROUP_BYTES, MIN_GROUPS = 48 * 2**20, 4
MASK_BYTES = 4096  # of both masks together, for sizing only
UPLOADS = 2

Encoding = Literal["raw", "png"]
BINARY_COLUMNS = ("image", "mask", "lung")


@dataclass(frozen=True, slots=True)
class ShardRow:
    """One film as it is stored: uint8 image [H, W] and 0/1 uint8 masks of the same shape."""

    image_id: str
    split: str
    label: str
    image_HW: NDArray[np.uint8]
    mask_HW: NDArray[np.uint8]
    lung_HW: NDArray[np.uint8] | None = None
    patient_id: str | None = None
    source: str = ""


def shard_order(split: str, image_id: str) -> tuple[str, str]:
    """The sort key of a dataset's rows."""
    return split, hashlib.sha256(image_id.encode()).hexdigest()


def refuse_existing(uri: str) -> None:
    """Raise DatasetError where a dataset already is, or StorageError where that cannot be found out."""
    if exists(join(uri, DATASET_FILE)):
        raise DatasetError(f"{uri}: a written dataset never changes; choose another name")


def write_dataset(
    rows: Iterable[ShardRow | Reject],
    uri: str,
    *,
    size: int,
    resize: Resize = "stretch",
    layout: str = "",
    encoding: Encoding = "raw",
    counts: Mapping[str, int],
    named_sources: bool = False,
) -> DatasetInfo:
    """Write ``rows`` as a dataset; ``dataset.json`` is written last, so that half a dataset is never valid.

    The rows are streamed and must come in the order of :func:`shard_order`; ``counts`` says how many rows and rejects
    each split has. With ``named_sources``, the ``source`` of every row begins with the name of its source and a
    slash. Raises DatasetError where a dataset is already there or no row is left.
    """
    refuse_existing(uri)
    for name in list_files(uri):
        if name.startswith("split=") and name.endswith(".parquet"):
            delete(join(uri, name))  # left by a run that did not finish
    rejected: list[Reject] = []
    counted: Counter[tuple[str, str, str]] = Counter()
    shards: list[Shard] = []
    with ThreadPoolExecutor(UPLOADS) as pool:
        pending: deque[Future[Shard]] = deque()
        for split, number, chunk in _files(iter(rows), counts, size):
            kept = [row for row in chunk if isinstance(row, ShardRow)]
            rejected += [row for row in chunk if isinstance(row, Reject)]
            if not kept:
                continue
            if any(row.split != split for row in kept):
                raise ValueError("streamed rows must come in the order of shard_order")
            counted.update((source_name(row.source) if named_sources else "", split, row.label) for row in kept)
            pending.append(pool.submit(_write_shard, uri, split, number, kept, encoding))
            if len(pending) > UPLOADS:
                shards.append(pending.popleft().result())
        shards += [future.result() for future in pending]
    if not shards:
        reason = "".join(f"; the first: {each.image}: {each.reason}, {each.detail}" for each in rejected[:1])
        raise DatasetError(f"{uri}: none of {len(rejected)} films could be packed{reason}")
    info = DatasetInfo(
        size,
        resize,
        encoding,
        layout,
        _by_split(counted),
        tuple(shards),
        tuple(rejected),
        sources=_by_source(counted) if named_sources else {},
    )
    if not create_bytes(join(uri, DATASET_FILE), json.dumps(info.to_json(), indent=1).encode()):
        raise DatasetError(f"{uri}: another run wrote a dataset there meanwhile; choose another name")
    return info


def even_cuts(rows: int, row_bytes: int, target_bytes: int, at_least: int) -> list[int]:
    """Sizes of equal parts of ``rows``: as few as stay near ``target_bytes``, but ``at_least`` so many or ``rows``."""
    parts = max(min(at_least, rows), math.ceil(rows * row_bytes / target_bytes))
    return [rows // parts + (part < rows % parts) for part in range(parts)] if rows else []


def _by_split(counted: Mapping[tuple[str, str, str], int]) -> dict[str, dict[str, int]]:
    splits: dict[str, dict[str, int]] = {}
    for (_, split, label), count in sorted(counted.items(), key=lambda each: each[0][1:]):
        labels = splits.setdefault(split, {})
        labels[label] = labels.get(label, 0) + count
    return splits


def _by_source(counted: Mapping[tuple[str, str, str], int]) -> dict[str, dict[str, dict[str, int]]]:
    return {
        name: _by_split({key: count for key, count in counted.items() if key[0] == name})
        for name in sorted({name for name, _, _ in counted})
    }


def _files(
    rows: Iterator[ShardRow | Reject], counts: Mapping[str, int], size: int
) -> Iterator[tuple[str, int, list[ShardRow | Reject]]]:
    for split in sorted(counts):
        for number, count in enumerate(even_cuts(counts[split], size * size + MASK_BYTES, FILE_BYTES, MIN_FILES)):
            yield split, number, list(islice(rows, count))


def _write_shard(uri: str, split: str, number: int, rows: list[ShardRow], encoding: Encoding) -> Shard:
    path = f"split={split}/part-{number:05d}.parquet"
    groups = even_cuts(len(rows), rows[0].image_HW.size + MASK_BYTES, GROUP_BYTES, MIN_GROUPS)
    data = _parquet(rows, groups, encoding)
    write_bytes(join(uri, path), data)
    return Shard(path, split, tuple(groups), len(data), hashlib.sha256(data).hexdigest())


def _parquet(rows: list[ShardRow], groups: list[int], encoding: Encoding) -> bytes:
    buffer = io.BytesIO()
    with pq.ParquetWriter(
        buffer,
        SCHEMA,
        compression="none",
        use_dictionary=False,
        write_statistics=[name for name in SCHEMA.names if name not in BINARY_COLUMNS],
        write_page_checksum=True,
    ) as writer:
        remaining = iter(rows)
        for count in groups:
            columns = [_columns(row, encoding) for row in islice(remaining, count)]
            writer.write_table(pa.Table.from_pylist(columns, schema=SCHEMA), row_group_size=count)
    return buffer.getvalue()


def _columns(row: ShardRow, encoding: Encoding) -> dict[str, Any]:
    image = np.ascontiguousarray(row.image_HW).tobytes() if encoding == "raw" else encode_png(row.image_HW)
    return {
        "image_id": row.image_id,
        "split": row.split,
        "label": row.label,
        "patient_id": row.patient_id,
        "source": row.source,
        "height": row.image_HW.shape[0],
        "width": row.image_HW.shape[1],
        "image": image,
        "image_encoding": encoding,
        "mask": encode_png1(row.mask_HW),
        "lung": None if row.lung_HW is None else encode_png1(row.lung_HW),
        "sha256": hashlib.sha256(image).hexdigest(),
    }

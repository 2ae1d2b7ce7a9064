"""What a dataset is: the columns of its shards, and what ``dataset.json`` says of them."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from typing import Any

import pyarrow as pa

from covseg_ray.radiograph.geometry import Resize

SCHEMA_VERSION = 1
DATASET_FILE = "dataset.json"
SCHEMA = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("label", pa.string(), nullable=False),
        pa.field("patient_id", pa.string()),
        pa.field("source", pa.string(), nullable=False),
        pa.field("height", pa.int32(), nullable=False),
        pa.field("width", pa.int32(), nullable=False),
        pa.field("image", pa.binary(), nullable=False),
        pa.field("image_encoding", pa.string(), nullable=False),
        pa.field("mask", pa.binary()),
        pa.field("lung", pa.binary()),
        pa.field("sha256", pa.string(), nullable=False),
    ]
)


@dataclass(frozen=True, slots=True)
class Reject:
    """A film that was not packed: where it is, a short stable code, and what exactly was wrong."""

    image: str
    reason: str
    detail: str


@dataclass(frozen=True, slots=True)
class Shard:
    """One file: path relative to the dataset, rows of each row group, size in bytes and digest."""

    path: str
    split: str
    row_groups: tuple[int, ...]
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class DatasetInfo:
    """What ``dataset.json`` holds; ``splits`` counts rows by split and label, ``sources`` by source, split and label:
    it is empty where the sources have no names."""

    size: int
    resize: Resize
    image_encoding: str
    layout: str
    splits: dict[str, dict[str, int]]
    shards: tuple[Shard, ...]
    rejected: tuple[Reject, ...]
    schema_version: int = SCHEMA_VERSION
    sources: dict[str, dict[str, dict[str, int]]] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        return sum(sum(labels.values()) for labels in self.splits.values())

    @property
    def bytes(self) -> int:
        return sum(shard.bytes for shard in self.shards)

    @property
    def digest(self) -> str:
        """SHA-256 over the schema, the splits' counts and every shard's own digest: equal when the films are."""
        parts = [
            [(column.name, str(column.type)) for column in SCHEMA],
            self.splits,
            [(shard.path, shard.sha256) for shard in self.shards],
        ]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def to_json(self) -> dict[str, Any]:
        return {"digest": self.digest, "rows": self.rows, **asdict(self)}


def source_name(source: str) -> str:
    """The name of a film's source, from the column ``source`` of a dataset whose ``sources`` are not empty."""
    return source.partition("/")[0]

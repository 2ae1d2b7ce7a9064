"""A dataset of rows in any order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from covseg_ray.storage.datasets.info import DatasetInfo
from covseg_ray.storage.datasets.shards import ShardRow, shard_order, write_dataset


def write_rows(rows: Iterable[ShardRow], uri: str, **options: Any) -> DatasetInfo:
    ordered = sorted(rows, key=lambda row: shard_order(row.split, row.image_id))
    return write_dataset(ordered, uri, counts=Counter(row.split for row in ordered), **options)

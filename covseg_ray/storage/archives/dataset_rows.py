"""Films of a packed dataset as inputs: each row of its shards is a member, read as pixels."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from functools import cache, lru_cache
from itertools import accumulate, groupby

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from covseg_ray.radiograph.decode import decode
from covseg_ray.radiograph.film import Radiograph, Rejected
from covseg_ray.storage.archives.image_ids import Copies, image_id
from covseg_ray.storage.archives.members import Member, read_in_order, reject
from covseg_ray.storage.archives.source_files import UNKNOWN_SIZE, SourceFile, locate_file
from covseg_ray.storage.datasets.read import open_shard, read_info
from covseg_ray.storage.filesystem import join, parquet_damage

_COLUMNS = ["image_id", "height", "width", "image", "image_encoding"]


def list_shards(dataset: str) -> Iterator[SourceFile]:
    """The shards that ``dataset.json`` names. Raises as `read_info` does."""
    shards = sorted(read_info(dataset).shards, key=lambda shard: shard.path)
    return (SourceFile(join(dataset, shard.path), shard.path, shard.bytes) for shard in shards)


def list_rows(file: SourceFile) -> Iterator[Member]:
    """The rows of a shard in their order; raises ValueError where its bytes are damaged."""
    copies, row = Copies(), 0
    with open_shard(locate_file(file.uri)) as opened, parquet_damage(_damaged):
        for batch in pq.ParquetFile(opened).iter_batches(columns=["image_id"]):
            for name in batch.column(0).to_pylist():
                yield Member(image_id(name, copy=copies.count(name)), file.uri, "shard", name, row, UNKNOWN_SIZE)
                row += 1


def read_rows(members: Iterable[Member]) -> Iterator[tuple[Member, Radiograph | Rejected]]:
    """The film of each row, uint8 [H, W] at the dataset's size, in the order of ``members``. A row group is read once
    for consecutive rows of it. Raises StorageError where the storage itself fails.
    """
    for container, run in groupby(members, key=lambda member: member.container):
        yield from read_in_order(container, run, _row_reader)


def _damaged(error: Exception) -> Exception:
    return ValueError("not the Parquet that was written")


def _row_reader(container: str, files: ExitStack) -> Callable[[Member], Radiograph | Rejected]:
    @cache
    def shard() -> tuple[pq.ParquetFile, list[int]]:
        """The shard, and the first row of each row group and the number of all rows."""
        file = files.enter_context(open_shard(locate_file(container)))
        parquet = pq.ParquetFile(file, pre_buffer=True, page_checksum_verification=True)
        counts = (parquet.metadata.row_group(group).num_rows for group in range(parquet.num_row_groups))
        return parquet, list(accumulate(counts, initial=0))

    @lru_cache(1)
    def table(group: int) -> pa.Table:
        return shard()[0].read_row_group(group, columns=_COLUMNS)

    def read(member: Member) -> Radiograph | Rejected:
        try:
            with parquet_damage(_damaged):
                _, starts = shard()
                group = bisect_right(starts, member.offset) - 1
                if not 0 <= group < len(starts) - 1:
                    return reject("changed")
                row = {name: table(group)[name][member.offset - starts[group]] for name in _COLUMNS}
                return _radiograph(row) if row["image_id"].as_py() == member.name else reject("changed")
        except ValueError as error:
            return Rejected("corrupt", str(error))

    return read


def _radiograph(row: dict[str, pa.Scalar]) -> Radiograph | Rejected:
    shape = (row["height"].as_py(), row["width"].as_py())
    if row["image_encoding"].as_py() != "raw":
        return decode(row["image"].as_py())
    pixels = np.frombuffer(row["image"].as_buffer(), np.uint8)
    if pixels.size != shape[0] * shape[1]:
        return Rejected("corrupt", f"{pixels.size:,} pixels where {shape[0]} x {shape[1]} were expected")
    return Radiograph(pixels.reshape(shape).copy())  # a view would keep its whole row group in memory

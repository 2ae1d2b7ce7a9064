"""Films of a packed dataset as inputs: each row of its shards is a member, read as pixels."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager
from itertools import accumulate, groupby
from typing import IO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from covseg_ray.radiograph.decode import decode
from covseg_ray.radiograph.film import Radiograph, Rejected
from covseg_ray.storage.archives.image_ids import Copies, image_id
from covseg_ray.storage.archives.members import Member, check_member, reject, try_read
from covseg_ray.storage.archives.source_files import UNKNOWN_SIZE, SourceFile, locate_file
from covseg_ray.storage.datasets.read import read_info
from covseg_ray.storage.filesystem import PARQUET_ERRORS, is_parquet_error, join

_COLUMNS = ["image_id", "height", "width", "image", "image_encoding"]


def list_shards(dataset: str) -> Iterator[SourceFile]:
    """The shards that ``dataset.json`` names. Raises as `read_info` does."""
    shards = sorted(read_info(dataset).shards, key=lambda shard: shard.path)
    return (SourceFile(join(dataset, shard.path), shard.path, shard.bytes) for shard in shards)


def list_rows(file: SourceFile) -> Iterator[Member]:
    """The rows of a shard in their order; raises ValueError where its bytes are damaged."""
    copies, row = Copies(), 0
    with _open_shard(file.uri) as opened, _translate_arrow_errors():
        for batch in pq.ParquetFile(opened).iter_batches(columns=["image_id"]):
            for name in batch.column(0).to_pylist():
                yield Member(image_id(name, copy=copies.count(name)), file.uri, "shard", name, row, UNKNOWN_SIZE)
                row += 1


def read_rows(members: Iterable[Member]) -> Iterator[tuple[Member, Radiograph | Rejected]]:
    """The film of each row, uint8 [H, W] at the dataset's size, in the order of ``members``. A row group is read once
    for consecutive rows of it. Raises StorageError where the storage itself fails.
    """
    for container, run in groupby(members, key=lambda member: member.container):
        with closing(_ShardReader(container)) as shard:
            for member in run:
                yield member, check_member(member) or shard.read(member)


def _open_shard(uri: str) -> IO[bytes]:
    location = locate_file(uri)
    # Parquet asks for exact ranges: a cache that reads ahead would fetch most of the file again.
    file: IO[bytes] = location.fs.open(location.path, "rb", cache_type="none")
    return file


@contextmanager
def _translate_arrow_errors() -> Iterator[None]:
    """Raise ValueError for bytes that are no Parquet; errors of the storage pass."""
    try:
        yield
    except PARQUET_ERRORS as error:
        if not is_parquet_error(error):
            raise
        raise ValueError("not the Parquet that was written") from error


class _ShardReader:
    def __init__(self, container: str) -> None:
        self._container = container
        self._files = ExitStack()
        self._parquet: pq.ParquetFile | None = None
        self._starts: list[int] = []
        self._group = -1
        self._table = pa.table({})

    def close(self) -> None:
        self._files.close()

    def read(self, member: Member) -> Radiograph | Rejected:
        return try_read(self._container, lambda: self._film(member))

    def _film(self, member: Member) -> Radiograph | Rejected:
        try:
            with _translate_arrow_errors():
                row = self._row(member.offset)
                if row is None or row["image_id"].as_py() != member.name:
                    return reject("changed")
                return _radiograph(row)
        except ValueError as error:
            return Rejected("corrupt", str(error))

    def _row(self, number: int) -> dict[str, pa.Scalar] | None:
        """One row's scalars, out of the row group that was read last if it is there."""
        if self._parquet is None:
            self._parquet = pq.ParquetFile(
                self._files.enter_context(_open_shard(self._container)),
                pre_buffer=True,
                page_checksum_verification=True,
            )
            groups = self._parquet.metadata
            counts = (groups.row_group(group).num_rows for group in range(groups.num_row_groups))
            self._starts = list(accumulate(counts, initial=0))
        group = bisect_right(self._starts, number) - 1
        if not 0 <= group < len(self._starts) - 1:
            return None
        if group != self._group:
            self._table, self._group = self._parquet.read_row_group(group, columns=_COLUMNS), group
        return {name: self._table[name][number - self._starts[group]] for name in _COLUMNS}


def _radiograph(row: dict[str, pa.Scalar]) -> Radiograph | Rejected:
    shape = (row["height"].as_py(), row["width"].as_py())
    if row["image_encoding"].as_py() != "raw":
        return decode(row["image"].as_py())
    pixels = np.frombuffer(row["image"].as_buffer(), np.uint8)
    if pixels.size != shape[0] * shape[1]:
        return Rejected("corrupt", f"{pixels.size:,} pixels where {shape[0]} x {shape[1]} were expected")
    return Radiograph(pixels.reshape(shape).copy())  # a view would keep its whole row group in memory

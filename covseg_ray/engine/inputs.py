"""The listing of an archive as Ray Data reads it: a task for each of its files.

``ray.data.read_parquet`` would put files together up to 128 MiB, which is the listing of a million films, and give one
task all of them to decode.
"""

from __future__ import annotations

from functools import partial

import pyarrow as pa
from ray.data import Datasource, ReadTask
from ray.data.block import BlockMetadata
from ray.data.context import DataContext

from covseg_ray.storage.listing import SCHEMA, Listing, read_file


class Inputs(Datasource):
    """Rows of ``listing.SCHEMA``, in as many tasks as the listing at ``out`` has files, whatever Ray asks for."""

    def __init__(self, out: str, listing: Listing) -> None:
        super().__init__()
        self._out, self._listing = out, listing

    def estimate_inmemory_data_size(self) -> int | None:
        return None

    def get_read_tasks(
        self, parallelism: int, per_task_row_limit: int | None = None, data_context: DataContext | None = None
    ) -> list[ReadTask]:
        ends = [*self._listing.starts[1:], self._listing.inputs]
        return [
            ReadTask(partial(_read, self._out, number), BlockMetadata(end - start, None, None, None), SCHEMA)
            for number, (start, end) in enumerate(zip(self._listing.starts, ends, strict=True))
        ]


def _read(out: str, number: int) -> list[pa.Table]:
    return [read_file(out, number)]

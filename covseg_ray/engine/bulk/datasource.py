"""The listing of an archive as a Ray Data source: one read task for each of its files.

``ray.data.read_parquet`` would combine files up to 128 MiB, the listing of a million films, into one task.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from ray.data import DataContext, Datasource, ReadTask
from ray.data.block import BlockMetadata

from covseg_ray.storage.runs.worklist import SCHEMA, Worklist, read_file


class ListingDatasource(Datasource):
    """Rows of ``worklist.SCHEMA``: a task for each file of the listing at ``out`` that has unfinished items.

    ``finished_I`` are the finished items, int64. Ray Data drops those in files that have unfinished items too.
    """

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
            ReadTask(partial(_read, self._out, file), BlockMetadata(rows, None, None, None), SCHEMA)
            for file, rows in self._rows.items()
        ]


def _read(out: str, file: int) -> list[pa.Table]:
    return [read_file(out, file)]

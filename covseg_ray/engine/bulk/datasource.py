"""The listing of an archive as Ray Data reads it: a task for each of its files.

``ray.data.read_parquet`` would put files together up to 128 MiB, which is the listing of a million films, and give one
task all of them to decode.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from ray.data import DataContext, Datasource, ReadTask
from ray.data.block import BlockMetadata

from covseg_ray.storage.runs.worklist import SCHEMA, Worklist, read_file


class Inputs(Datasource):
    """Rows of ``listing.SCHEMA``, in as many tasks as the listing at ``out`` has files with anything to do in them.

    ``finished_I`` are the items that are done, int64: of files that have others too, Ray Data leaves them out.
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

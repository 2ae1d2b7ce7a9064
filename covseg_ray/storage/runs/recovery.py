"""Recovery after a kill: make the result files agree with the records of finished blocks.

For each block Ray Data writes a pending record, then the rows, and then moves the record to its final name. In a bucket
a move is a copy and a deletion, and a request that was on its way when its sender died arrives later still. So a record
may be there under both names, or without its rows, and rows without a record. A block is done where both stand.

Ray Data reads all records at once, each file with its own threads, so many records are compacted into one file.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator, Mapping

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from covseg_ray.storage.filesystem import delete_files, join, list_files, read_bytes, read_files, write_bytes
from covseg_ray.storage.runs.result_table import RESULTS

RECORDS = ".checkpoint"
MANY_RECORDS = 128
_PENDING, _PARQUET = ".pending.parquet", ".parquet"
_COMPACT = "compact-"
_BLOCKS = b"covseg_ray.blocks"
_SCHEMA = pa.schema([pa.field("item", pa.int64(), nullable=False)])

Blocks = dict[str, pa.Table]  # the items of a block, by its name


def recover(out: str) -> int:
    """Delete what belongs to blocks whose record or rows are missing; return how many records had no rows.

    No run may be writing there. Ray's own recovery would delete the rows of a record that is there under both names,
    and keep the record.
    """
    names = _names(out, RECORDS)
    rows = _names(out, RESULTS)
    compacted = _read_compact(out, names)
    single = {name.removesuffix(_PARQUET) for name in names if not name.endswith(_PENDING)} - set(compacted)
    done = single.union(*compacted.values())
    written = {_block(name) for name in rows}
    if lost := done - written:
        for name, blocks in compacted.items():
            if lost & blocks.keys():
                _write_compact(out, {block: items for block, items in blocks.items() if block not in lost})
                delete_files(join(out, RECORDS), [f"{name}{_PARQUET}"])
    delete_files(join(out, RECORDS), (name for name in names if name.endswith(_PENDING)))
    delete_files(join(out, RECORDS), (f"{block}{_PARQUET}" for block in single & lost))
    delete_files(join(out, RESULTS), (name for name in rows if _block(name) not in done))
    return len(lost)


def compact_records(out: str) -> None:
    """Merge the records of finished blocks into one file where there are many. No run may be writing there."""
    names = _names(out, RECORDS)
    if len(names) <= MANY_RECORDS:
        return
    compacted = _read_compact(out, names)
    blocks: Blocks = {}
    for merged in compacted.values():
        blocks |= merged
    single = [name for name in names if name.removesuffix(_PARQUET) not in compacted]
    for name, data in read_files(join(out, RECORDS), single).items():
        blocks[name.removesuffix(_PARQUET)] = pq.read_table(io.BytesIO(data), schema=_SCHEMA)
    kept = _write_compact(out, blocks)
    delete_files(join(out, RECORDS), (name for name in names if name != kept))


def finished_items(out: str) -> NDArray[np.int64]:
    """The items of all finished blocks, after `recover`, each once: a kill during `compact_records` leaves some records
    under two names."""
    records = read_files(join(out, RECORDS), _names(out, RECORDS)).values()
    items = [pq.read_table(io.BytesIO(data), columns=["item"])["item"].to_numpy() for data in records]
    return np.unique(np.concatenate([np.empty(0, np.int64), *items]))


def _names(out: str, folder: str) -> list[str]:
    return [name for name in list_files(join(out, folder)) if name.endswith(_PARQUET)]


def _read_compact(out: str, names: list[str]) -> dict[str, Blocks]:
    """The blocks of each compacted record, by its name without ending."""
    return {
        name.removesuffix(_PARQUET): dict(_split(pq.read_table(io.BytesIO(read_bytes(join(out, RECORDS, name))))))
        for name in names
        if name.startswith(_COMPACT)
    }


def _split(table: pa.Table) -> Iterator[tuple[str, pa.Table]]:
    start = 0
    for block, count in json.loads(table.schema.metadata[_BLOCKS]):
        yield block, table.slice(start, count)
        start += count


def _write_compact(out: str, blocks: Mapping[str, pa.Table]) -> str:
    """Write one record of ``blocks``; its name is a digest of their names and lengths. Returns the name."""
    lengths = json.dumps([[block, items.num_rows] for block, items in blocks.items()]).encode()
    table = pa.concat_tables([_SCHEMA.empty_table(), *(items.cast(_SCHEMA) for items in blocks.values())])
    buffer = io.BytesIO()
    pq.write_table(table.replace_schema_metadata({_BLOCKS: lengths}), buffer)
    name = f"{_COMPACT}{hashlib.sha256(lengths).hexdigest()[:16]}{_PARQUET}"
    write_bytes(join(out, RECORDS, name), buffer.getvalue())
    return name


def _block(name: str) -> str:
    """The block of a result file ``BLOCK-NUMBER.parquet``."""
    return name.rpartition("-")[0]

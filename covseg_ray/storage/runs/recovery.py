"""Results and the records of what is done, made to agree after a command was killed.

For each block Ray Data writes a pending record, then the rows, and then moves the record to its final name. In a bucket
a move is a copy and a deletion, and a request that was on its way when its sender died arrives later still. So a record
may be there under both names, or without its rows, and rows without a record. A block is done where both stand.

Ray Data reads every record at once, each file with threads of its own, so many of them are gathered into one.
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
_GATHERED = "gathered-"
_BLOCKS = b"covseg_ray.blocks"
_SCHEMA = pa.schema([pa.field("item", pa.int64(), nullable=False)])

Blocks = dict[str, pa.Table]  # the items of a block, by its name


def mend(out: str) -> int:
    """Leave only blocks whose record and rows are both there, and give how many records had no rows.

    Nobody may be writing there. Ray's own way to begin again would take the rows of a record that stands under both
    names, and keep the record.
    """
    names = _names(out, RECORDS)
    rows = _names(out, RESULTS)
    gathered = _read_gathered(out, names)
    single = {name.removesuffix(_PARQUET) for name in names if not name.endswith(_PENDING)} - set(gathered)
    done = single.union(*gathered.values())
    written = {_block(name) for name in rows}
    if lost := done - written:
        for name, blocks in gathered.items():
            if lost & blocks.keys():
                _write_gathered(out, {block: items for block, items in blocks.items() if block not in lost})
                delete_files(join(out, RECORDS), [f"{name}{_PARQUET}"])
    delete_files(join(out, RECORDS), (name for name in names if name.endswith(_PENDING)))
    delete_files(join(out, RECORDS), (f"{block}{_PARQUET}" for block in single & lost))
    delete_files(join(out, RESULTS), (name for name in rows if _block(name) not in done))
    return len(lost)


def gather(out: str) -> None:
    """Put the records of finished blocks into one file where there are many. Nobody may be writing there."""
    names = _names(out, RECORDS)
    if len(names) <= MANY_RECORDS:
        return
    gathered = _read_gathered(out, names)
    blocks: Blocks = {}
    for earlier in gathered.values():
        blocks |= earlier
    single = [name for name in names if name.removesuffix(_PARQUET) not in gathered]
    for name, data in read_files(join(out, RECORDS), single).items():
        blocks[name.removesuffix(_PARQUET)] = pq.read_table(io.BytesIO(data), schema=_SCHEMA)
    kept = _write_gathered(out, blocks)
    delete_files(join(out, RECORDS), (name for name in names if name != kept))


def finished(out: str) -> NDArray[np.int64]:
    """The items of all blocks that are done, after `mend`, each once: a kill while records were gathered leaves some
    under two names."""
    names = _names(out, RECORDS)
    records = read_files(join(out, RECORDS), names).values() if names else ()
    items = [pq.read_table(io.BytesIO(data), columns=["item"])["item"].to_numpy() for data in records]
    return np.unique(np.concatenate([np.empty(0, np.int64), *items]))


def _names(out: str, folder: str) -> list[str]:
    return [name for name in list_files(join(out, folder)) if name.endswith(_PARQUET)]


def _read_gathered(out: str, names: list[str]) -> dict[str, Blocks]:
    """The blocks of each gathered record, by its name without ending."""
    return {
        name.removesuffix(_PARQUET): dict(_split(pq.read_table(io.BytesIO(read_bytes(join(out, RECORDS, name))))))
        for name in names
        if name.startswith(_GATHERED)
    }


def _split(table: pa.Table) -> Iterator[tuple[str, pa.Table]]:
    start = 0
    for block, count in json.loads(table.schema.metadata[_BLOCKS]):
        yield block, table.slice(start, count)
        start += count


def _write_gathered(out: str, blocks: Mapping[str, pa.Table]) -> str:
    """Write one record of ``blocks``, and give its file's name, which tells what is in it."""
    told = json.dumps([[block, items.num_rows] for block, items in blocks.items()]).encode()
    table = pa.concat_tables([_SCHEMA.empty_table(), *(items.cast(_SCHEMA) for items in blocks.values())])
    buffer = io.BytesIO()
    pq.write_table(table.replace_schema_metadata({_BLOCKS: told}), buffer)
    name = f"{_GATHERED}{hashlib.sha256(told).hexdigest()[:16]}{_PARQUET}"
    write_bytes(join(out, RECORDS, name), buffer.getvalue())
    return name


def _block(name: str) -> str:
    """Rows lie in ``BLOCK-NUMBER.parquet``."""
    return name.rpartition("-")[0]

"""Results and the records of what is done, made to agree after a command was killed.

For each block Ray Data writes a pending record, then the rows, and then moves the record to its final name. In a bucket
a move is a copy and a deletion, and a request that was on its way when its sender died arrives later still. So a record
may be there under both names, or without its rows, and rows without a record. A block is done where both stand.
"""

from __future__ import annotations

from collections.abc import Iterable

from covseg_ray.storage.filesystem import delete, join, list_files
from covseg_ray.storage.results import RESULTS

RECORDS = ".checkpoint"
_PENDING, _PARQUET = ".pending.parquet", ".parquet"


def mend(out: str) -> int:
    """Leave only blocks whose record and rows are both there, and give how many records had no rows.

    Nobody may be writing there. Ray's own way to begin again would take the rows of a record that stands under both
    names, and keep the record.
    """
    records = [name for name in list_files(join(out, RECORDS)) if name.endswith(_PARQUET)]
    rows = [name for name in list_files(join(out, RESULTS)) if name.endswith(_PARQUET)]
    done = {name.removesuffix(_PARQUET) for name in records if not name.endswith(_PENDING)}
    written = {_block(name) for name in rows}
    _delete(out, RECORDS, (name for name in records if name.endswith(_PENDING)))
    _delete(out, RECORDS, (f"{block}{_PARQUET}" for block in done - written))
    _delete(out, RESULTS, (name for name in rows if _block(name) not in done))
    return len(done - written)


def _block(name: str) -> str:
    """Rows lie in ``BLOCK-NUMBER.parquet``."""
    return name.rpartition("-")[0]


def _delete(out: str, folder: str, names: Iterable[str]) -> None:
    for name in names:
        delete(join(out, folder, name))

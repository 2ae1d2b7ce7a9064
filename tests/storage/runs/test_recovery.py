from __future__ import annotations

import io
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from covseg_ray.storage.filesystem import delete, list_files, read_bytes, write_bytes
from covseg_ray.storage.runs.recovery import MANY_RECORDS, compact_records, finished_items, recover

WHOLE = {".checkpoint/u_1_000000.parquet", "results/u_1_000000-0.parquet"}
LEFT_BY_KILLS = {
    "both names of a record": {
        ".checkpoint/u_1_000001.parquet",
        ".checkpoint/u_1_000001.pending.parquet",
        "results/u_1_000001-0.parquet",
    },
    "a record without rows": {".checkpoint/u_1_000002.parquet"},
    "rows without a record": {"results/u_1_000003-0.parquet"},
    "a pending record": {".checkpoint/u_1_000004.pending.parquet"},
    "a pending record and rows": {".checkpoint/u_1_000005.pending.parquet", "results/u_1_000005-0.parquet"},
}
OTHERS = {"summary.json", "listing/part-0000000.parquet", "masks/results/a-1.parquet.png"}


@pytest.mark.parametrize("place", ["local", "s3"])
def test_a_block_is_done_where_its_record_and_its_rows_are_there(
    request: pytest.FixtureRequest, place: str, tmp_path: Path
) -> None:
    out = f"{request.getfixturevalue('bucket')}/{tmp_path.name}" if place == "s3" else str(tmp_path)
    assert recover(out) == 0
    for name in WHOLE | OTHERS | set().union(*LEFT_BY_KILLS.values()):
        write_bytes(f"{out}/{name}", b"x")
    assert recover(out) == 1, "the record without rows"
    kept = {".checkpoint/u_1_000001.parquet", "results/u_1_000001-0.parquet"}
    assert set(list_files(out)) == WHOLE | OTHERS | kept
    assert recover(out) == 0
    assert set(list_files(out)) == WHOLE | OTHERS | kept


def write_blocks(out: str, blocks: dict[str, list[int]]) -> None:
    for block, items in blocks.items():
        buffer = io.BytesIO()
        pq.write_table(pa.table({"item": pa.array(items, pa.int64())}), buffer)
        write_bytes(f"{out}/.checkpoint/{block}.parquet", buffer.getvalue())
        write_bytes(f"{out}/results/{block}-0.parquet", b"rows")


def items_of(out: str) -> list[int]:
    """What Ray reads there: the items of every record."""
    names = [name for name in list_files(out) if name.startswith(".checkpoint/")]
    tables = [pq.read_table(io.BytesIO(read_bytes(f"{out}/{name}"))) for name in names]
    return sorted(item for table in tables for item in table["item"].to_pylist())


@pytest.mark.full
@pytest.mark.parametrize("place", ["local", "s3"])
def test_many_records_are_compacted_and_recovered(request: pytest.FixtureRequest, place: str, tmp_path: Path) -> None:
    out = f"{request.getfixturevalue('bucket')}/{tmp_path.name}" if place == "s3" else str(tmp_path)
    assert finished_items(out).tolist() == []
    blocks = {f"u_{n:06d}": list(range(3 * n, 3 * n + 3)) for n in range(MANY_RECORDS)}
    write_blocks(out, blocks)
    assert finished_items(out).tolist() == list(range(3 * MANY_RECORDS))
    compact_records(out)
    assert sum(name.startswith(".checkpoint/") for name in list_files(out)) == MANY_RECORDS, "few are left alone"
    late = {"v_000000": [5000, 4000], "v_000001": [6000]}
    write_blocks(out, late)
    compact_records(out)
    (record,) = [name for name in list_files(out) if name.startswith(".checkpoint/")]
    everything = sorted(item for items in (blocks | late).values() for item in items)
    assert items_of(out) == finished_items(out).tolist() == everything
    assert recover(out) == 0
    assert len(list_files(out)) == 1 + len(blocks | late)

    write_blocks(out, {f"w_{n:06d}": [10_000 + n] for n in range(MANY_RECORDS)})
    before = {name: read_bytes(f"{out}/{name}") for name in list_files(out)}
    compact_records(out)
    everything += list(range(10_000, 10_000 + MANY_RECORDS))
    assert items_of(out) == everything
    for name, data in before.items():  # as a kill would leave it before the old records are taken away
        write_bytes(f"{out}/{name}", data)
    assert set(items_of(out)) == set(everything)
    assert recover(out) == 0
    assert finished_items(out).tolist() == everything
    compact_records(out)
    assert items_of(out) == everything
    assert record not in list_files(out)

    delete(f"{out}/results/v_000000-0.parquet")
    delete(f"{out}/results/u_000007-0.parquet")
    assert recover(out) == 2
    assert items_of(out) == [item for item in everything if item not in (5000, 4000, 21, 22, 23)]
    assert recover(out) == 0

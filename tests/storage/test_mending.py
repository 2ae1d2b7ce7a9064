from __future__ import annotations

from pathlib import Path

import pytest

from covseg_ray.storage.filesystem import list_files, write_bytes
from covseg_ray.storage.mending import mend

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
    assert mend(out) == 0
    for name in WHOLE | OTHERS | set().union(*LEFT_BY_KILLS.values()):
        write_bytes(f"{out}/{name}", b"x")
    assert mend(out) == 1, "the record without rows"
    kept = {".checkpoint/u_1_000001.parquet", "results/u_1_000001-0.parquet"}
    assert set(list_files(out)) == WHOLE | OTHERS | kept
    assert mend(out) == 0
    assert set(list_files(out)) == WHOLE | OTHERS | kept

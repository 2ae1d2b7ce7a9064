from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from result_rows import result, write_results

from covseg_ray.errors import CovsegError, StorageError
from covseg_ray.storage.filesystem import write_bytes
from covseg_ray.storage.runs.result_table import SCHEMA, check_items, read_numbers, read_summary, scan, tally

# The result row of the contract, and the few columns that were added to it.
CONTRACT = {
    "image_id": "string",
    "source": "string",
    "input_sha256": "string",
    "status": "string",
    "reason": "string",
    "height": "int32",
    "width": "int32",
    "infection_fraction": "double",
    "lung_fraction": "double",
    "severity": "string",
    "mask": "binary",
    "model_id": "string",
    "preprocess_version": "string",
}
ADDED = {
    **{"item": "int64", "sop_instance_uid": "string", "detail": "string", "frontal": "float"},
    "expected_iou": "double",
}
ALWAYS = {"item", "image_id", "source", "status", "model_id", "preprocess_version"}


@pytest.fixture(params=["local", "s3"])
def out(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "local":
        return str(tmp_path / "out")
    return f"{request.getfixturevalue('bucket')}/{tmp_path.name}"


def test_the_columns_are_those_of_the_contract() -> None:
    assert {field.name: str(field.type) for field in SCHEMA} == CONTRACT | ADDED
    assert {field.name for field in SCHEMA if not field.nullable} == ALWAYS


def test_scan_reads_the_columns_asked_for_a_file_at_a_time_by_name(out: str) -> None:
    write_results(out, [result(5), result(2)], [result(9)], [result(0, "empty")])
    tables = list(scan(out, ["status", "item"]))
    assert [table.column_names for table in tables] == [["status", "item"]] * 3
    assert [table["item"].to_pylist() for table in tables] == [[5, 2], [9], [0]]
    assert [table["status"].to_pylist() for table in tables] == [["ok", "ok"], ["ok"], ["rejected"]]


def test_known_gives_the_numbers_of_the_films_that_have_one(out: str) -> None:
    write_results(out, [result(0, frontal=0.25), result(1, "empty")], [result(2), result(3)])
    items, numbers = read_numbers(out, "frontal")
    assert (items.tolist(), numbers.tolist()) == ([0], [0.25])
    assert check_items(out, 4).ok == 3


def test_numbers_of_rejected_films_do_not_count(out: str) -> None:
    write_results(out, [result(0, frontal=0.25), result(1, "not-frontal", frontal=0.001)])
    items, numbers = read_numbers(out, "frontal")
    assert (items.tolist(), numbers.tolist()) == ([0], [0.25])


def test_what_is_known_where_nothing_is(tmp_path: Path) -> None:
    items, numbers = read_numbers(str(tmp_path), "infection_fraction")
    assert (items.dtype, items.size, numbers.size) == (np.int64, 0, 0)


def test_other_parquet_files_are_refused(tmp_path: Path) -> None:
    write_results(str(tmp_path), [result(0)])
    pq.write_table(pa.table({"frontal": [0.5]}), tmp_path / "results/other.parquet")
    with pytest.raises(StorageError, match="not the Parquet that was written"):
        read_numbers(str(tmp_path), "frontal")


def test_what_is_no_parquet_file_is_passed_over(tmp_path: Path) -> None:
    out = write_results(str(tmp_path), [result(0)])
    data = (tmp_path / "results/000_part.parquet").read_bytes()
    (tmp_path / "results/001_part.parquet.half").write_bytes(data[: len(data) // 2])
    (tmp_path / "results/.001_part.parquet.5f3a").write_bytes(b"")
    (tmp_path / "results/_SUCCESS").write_bytes(b"")
    (tmp_path / "other.parquet").write_bytes(b"")
    assert [table["item"].to_pylist() for table in scan(out, ["item"])] == [[0]]
    check_items(out, 1)


def test_no_results_are_nothing_and_no_bucket_is_an_error(tmp_path: Path, s3_server: None) -> None:
    assert list(scan(str(tmp_path), ["item"])) == []
    assert (tally(str(tmp_path)).ok, tally(str(tmp_path)).rejected) == (0, 0)
    with pytest.raises(StorageError, match="not found"):
        list(scan("s3://covseg-test-of-nobody/out", ["item"]))


def test_tally_counts_by_reason_the_most_frequent_first(out: str) -> None:
    reasons = ["truncated", None, "empty", "truncated", None, "corrupt", "truncated", None, "corrupt", None]
    rows = [result(item, reason) for item, reason in enumerate(reasons)]
    counted = tally(write_results(out, rows[:3], rows[3:4], rows[4:]))
    assert counted.ok == 4
    assert counted.rejected == 6
    assert counted.reasons == {key: count for key, count in Counter(reasons).items() if key}
    assert list(counted.reasons) == ["truncated", "corrupt", "empty"]


def test_tally_without_a_film_and_without_a_reject(tmp_path: Path) -> None:
    none = tally(write_results(str(tmp_path / "none"), [result(0, "empty"), result(1, "empty")]))
    assert (none.ok, none.rejected, none.reasons) == (0, 2, {"empty": 2})
    every = tally(write_results(str(tmp_path / "all"), [result(0), result(1, detail="not as DICOM")]))
    assert (every.ok, every.rejected, every.reasons) == (2, 0, {})


def test_each_item_once_in_any_order_is_a_ledger(out: str) -> None:
    check_items(write_results(out, [result(3), result(0)], [result(4, "empty")], [result(2), result(1)]), 5)


@pytest.mark.parametrize(
    ("items", "lost", "repeated", "unknown"),
    [
        ([0, 1, 3], 1, 0, 0),
        ([], 4, 0, 0),
        ([0, 1, 2, 3, 2], 0, 1, 0),
        ([0, 1, 1, 1], 2, 1, 0),
        ([0] * 256 + [1, 2, 3], 0, 1, 0),
        ([0] * 257 + [1, 2, 3], 0, 1, 0),
        ([0, 1, 2, 3, 4], 0, 0, 1),
        ([0, 1, 2, -1], 1, 0, 1),
        ([0, 1, 2, 3, 2**62, -(2**62)], 0, 0, 2),
    ],
)
def test_a_lost_repeated_or_unknown_item_is_found(
    tmp_path: Path, items: list[int], lost: int, repeated: int, unknown: int
) -> None:
    middle = len(items) // 2
    rows = [result(item) for item in items]
    text = f"of 4 inputs {lost} are missing and {repeated} stand more than once in results/, and {unknown} rows are of"
    with pytest.raises(CovsegError, match=text) as caught:
        check_items(write_results(str(tmp_path), rows[:middle], rows[middle:]), 4)
    assert "\n" not in str(caught.value)


def test_no_input_at_all_is_a_ledger(tmp_path: Path) -> None:
    check_items(str(tmp_path), 0)
    with pytest.raises(CovsegError, match="1 rows are of no input"):
        check_items(write_results(str(tmp_path), [result(0)]), 0)


def test_the_summary_comes_back(out: str) -> None:
    document = {"inputs": 3, "reasons": {"empty": 1}, "source": "/films/ü"}
    write_bytes(f"{out}/summary.json", json.dumps(document).encode())
    assert read_summary(out) == document


def test_without_a_summary_no_run_has_ended(out: str) -> None:
    with pytest.raises(StorageError, match=r"no finished run there \(no summary\.json\); run covseg-ray segment"):
        read_summary(write_results(out, [result(0)]))


def test_without_the_bucket_it_is_not_known_whether_a_run_has_ended(s3_server: None) -> None:
    with pytest.raises(StorageError, match="no such bucket"):
        read_summary("s3://covseg-test-of-nobody/out")

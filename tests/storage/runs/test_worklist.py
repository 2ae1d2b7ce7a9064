from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from covseg_ray.storage.archives.members import Kind, Member
from covseg_ray.storage.filesystem import list_files, write_bytes
from covseg_ray.storage.runs.worklist import parse_members, read_items, read_worklist, split_tasks, write_worklist


def members(count: int, container: str = "/films/{}.png", kind: Kind = "file") -> list[Member]:
    return [
        Member(f"{kind}-{i}", container.format(i), kind, "" if kind == "file" else f"é {i}", 512 * i, i - 1)
        for i in range(count)
    ]


@pytest.fixture(params=["local", "s3"])
def out(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return f"{request.getfixturevalue('bucket')}/{tmp_path.name}" if request.param == "s3" else str(tmp_path / "out")


def test_every_member_stands_once_under_its_number(out: str) -> None:
    listed = [*members(1203), *members(40, "/films/a.zip", "zip"), Member("x", "/x", "file", "", 0, -1, "missing")]
    counts: list[int] = []
    listing = write_worklist(out, iter(listed), counts.append)
    assert read_worklist(out) == listing
    assert (listing.inputs, dict(listing.kinds)) == (1244, {"file": 1204, "zip": 40})
    assert listing.bytes == sum(range(1202)) + sum(range(39))
    assert counts == [500, 1000, 1244]
    assert listing.starts == [0, 500, 1000]
    assert read_items(out, listing, [1243, 0, 499, 500, 7]) == {i: listed[i] for i in (0, 7, 499, 500, 1243)}


def test_files_hold_consecutive_items_in_the_order_of_listing(tmp_path: Path) -> None:
    listed = members(1100)
    write_worklist(str(tmp_path), listed, [].append)
    rows = [row for file in sorted((tmp_path / "listing").iterdir()) for row in pq.read_table(file).to_pylist()]
    assert [row["item"] for row in rows] == list(range(1100))
    assert list(parse_members(rows)) == listed


def test_a_listing_cut_short_is_none_and_made_anew(out: str) -> None:
    def breaking() -> Iterator[Member]:
        yield from members(1500)
        raise OSError("storage went away")

    with pytest.raises(OSError, match="went away"):
        write_worklist(out, breaking(), [].append)
    assert read_worklist(out) is None
    write_bytes(f"{out}/other.txt", b"stays")
    listing = write_worklist(out, members(3), [].append)
    assert listing.inputs == 3
    assert list_files(out) == ["listing.json", "listing/part-0000000.parquet", "other.txt"]


def test_an_empty_source_gives_an_empty_listing(tmp_path: Path) -> None:
    assert write_worklist(str(tmp_path), [], [].append).inputs == 0


def test_an_archive_is_read_in_few_tasks() -> None:
    assert [len(run) for run in split_tasks(members(1200))] == [500, 500, 200]
    assert [len(run) for run in split_tasks(members(1200, "/a.tar", "tar"))] == [500, 500, 200]
    assert [len(run) for run in split_tasks(members(12_000, "/a.zip", "zip"))] == [5500, 5500, 1000]
    assert [len(run) for run in split_tasks(members(12_000, "/a.tar.gz", "tar.gz"))] == [12_000]
    several = [*members(600, "/a.zip", "zip"), *members(600, "/b.zip", "zip"), *members(10)]
    assert [len(run) for run in split_tasks(several)] == [600, 600, 10]

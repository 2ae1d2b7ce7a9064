"""Listing and reading zip archives, well made and badly; where archives lie is left to test_read.py."""

from __future__ import annotations

import io
import stat
import struct
import zipfile
from pathlib import Path

import pytest
from archive_files import png, zipped

from covseg_ray.radiograph.film import Rejected
from covseg_ray.storage.archives.members import Member
from covseg_ray.storage.archives.read import list_members, read_members

FILMS = [(f"in/{number}.png", png(number)) for number in range(5)]
NAMES = [f"in/{number}.png" for number in range(5)]
LOCAL, CENTRAL, END = b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06"


def listed(tmp_path: Path, data: bytes) -> list[Member]:
    (tmp_path / "x.zip").write_bytes(data)
    return list(list_members(str(tmp_path / "x.zip")))


def problems(members: list[Member]) -> list[tuple[str, str | None]]:
    return [(member.image_id, member.problem) for member in members]


def read(members: list[Member]) -> list[bytes | str]:
    found = list(read_members(members))
    assert [member for member, _ in found] == members
    return [data.reason if isinstance(data, Rejected) else data for _, data in found]


def changed(data: bytes, sign: bytes, offset: int, field: bytes) -> bytes:
    """``field`` put at ``offset`` of the last record that begins with ``sign``."""
    place = data.rindex(sign) + offset
    return data[:place] + field + data[place + len(field) :]


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_members_are_listed_in_order_and_read_in_any(tmp_path: Path, compression: int) -> None:
    members = listed(tmp_path, zipped([("folder/", b""), *FILMS, ("__MACOSX/in/._0.png", b"1")], compression))
    assert problems(members) == [(f"x.zip/{name}", None) for name in NAMES]
    assert [member.offset for member in members] == [1, 2, 3, 4, 5]
    assert [member.size for member in members] == [len(film) for _, film in FILMS]
    order = [3, 0, 4, 4, 1]
    assert read([members[number] for number in order]) == [FILMS[number][1] for number in order]


def test_an_archive_behind_other_bytes_and_before_a_comment(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a.png", png(1))
        archive.comment = b"from the scanner " * 1000
    assert read(listed(tmp_path, b"#!/bin/sh\nexit\n" + buffer.getvalue())) == [png(1)]


def test_an_empty_zip_holds_nothing(tmp_path: Path) -> None:
    assert listed(tmp_path, zipped([])) == []


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_hostile_names_become_safe_ids(tmp_path: Path) -> None:
    names = ["../../a.png", "/etc/b.png", "c\n\x1b[2J.png", "é" * 4000, "./d.png", "same", "same", "x\\y.png"]
    members = listed(tmp_path, zipped([(name, png(number)) for number, name in enumerate(names)]))
    ids = [member.image_id for member in members]
    assert ids[:3] == ["x.zip/%2E%2E/%2E%2E/a.png", "x.zip/%2Fetc/b.png", "x.zip/c%0A%1B[2J.png"]
    assert max(len(part.encode()) for part in ids[3].split("/")) <= 200
    assert ids[4:] == ["x.zip/d.png", "x.zip/same", "x.zip/same#2", "x.zip/x%5Cy.png"]
    assert read(members) == [png(number) for number in range(8)]


def test_links_and_devices_are_no_films(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, mode in [("link", stat.S_IFLNK), ("pipe", stat.S_IFIFO), ("disk", stat.S_IFBLK), ("a", stat.S_IFREG)]:
            info = zipfile.ZipInfo(name)
            info.external_attr = (mode | 0o644) << 16
            archive.writestr(info, png(1))
    members = listed(tmp_path, buffer.getvalue())
    assert [member.problem for member in members] == ["link", "not-a-file", "not-a-file", None]
    assert read(members) == ["link", "not-a-file", "not-a-file", png(1)]


def test_an_encrypted_member_is_told(tmp_path: Path) -> None:
    members = listed(tmp_path, changed(zipped(FILMS), CENTRAL, 8, struct.pack("<H", 1)))
    assert [member.problem for member in members] == [None] * 4 + ["encrypted"]
    assert read(members) == [*(film for _, film in FILMS[:4]), "encrypted"]


@pytest.mark.parametrize("compression", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_compressions_are_told(tmp_path: Path, compression: int) -> None:
    assert [member.problem for member in listed(tmp_path, zipped(FILMS, compression))] == ["unsupported"] * 5


def test_a_bomb_is_told_by_its_ratio_alone_and_only_where_it_is_large(tmp_path: Path) -> None:
    members = listed(tmp_path, zipped([("small", bytes(16 * 2**20)), ("bomb", bytes(16 * 2**20 + 1))]))
    assert [member.problem for member in members] == [None, "bomb"]
    assert read(members) == ["not-an-image", "bomb"]


def test_a_member_over_the_limit_is_not_read(tmp_path: Path) -> None:
    data = changed(zipped(FILMS, zipfile.ZIP_STORED), CENTRAL, 20, struct.pack("<II", 2**30, 2**30))
    assert read(listed(tmp_path, data)) == [*(film for _, film in FILMS[:4]), "too-large"]


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("by", [-7, 7, 100_000])
def test_a_declared_size_that_lies_is_told(tmp_path: Path, compression: int, by: int) -> None:
    size = struct.pack("<I", len(FILMS[4][1]) + by)
    members = listed(tmp_path, changed(zipped(FILMS, compression), CENTRAL, 24, size))
    found = read(members)
    assert found[:4] == [film for _, film in FILMS[:4]]
    assert found[4] in ("truncated", "corrupt")


@pytest.mark.parametrize(
    ("sign", "offset", "field"),
    [
        (CENTRAL, 16, b"\0\0\0\0"),  # the check sum
        (CENTRAL, 42, b"\x07\0\0\0"),  # where the member lies
        (CENTRAL, 42, b"\xff\xff\xff\x7f"),
        (LOCAL, 0, b"PKxx"),
        (LOCAL, 30, b"other"),  # the name before the data
        (LOCAL, 45, b"\xff" * 40),  # the data
    ],
)
def test_a_damaged_member_is_told_and_the_others_are_read(
    tmp_path: Path, sign: bytes, offset: int, field: bytes
) -> None:
    found = read(listed(tmp_path, changed(zipped(FILMS), sign, offset, field)))
    assert found[:4] == [film for _, film in FILMS[:4]]
    assert found[4] in ("truncated", "corrupt")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"no zip at all",
        b"x" * 100_000,
        zipped(FILMS)[:-30],
        zipped(FILMS)[: len(zipped(FILMS)) // 2],
        changed(zipped(FILMS), CENTRAL, 0, b"PKxx"),
        changed(zipped(FILMS), END, 12, struct.pack("<I", 2**31)),
        changed(zipped(FILMS), CENTRAL, 6, struct.pack("<H", 255)),
        changed(changed(zipped(FILMS), CENTRAL, 8, struct.pack("<H", 0x800)), CENTRAL, 46, b"\xff\xfe"),
    ],
    ids=["empty", "text", "long", "no end", "half", "sign", "directory size", "version", "no utf-8"],
)
def test_what_has_no_directory_is_one_member(tmp_path: Path, data: bytes) -> None:
    members = listed(tmp_path, data)
    assert members == [Member("x.zip", str(tmp_path / "x.zip"), "file", "", 0, len(data), "broken-archive")]
    assert read(members) == ["broken-archive"]


def test_an_offset_beyond_all_disks_is_told(tmp_path: Path) -> None:
    extra = struct.pack("<HHQ", 1, 8, 2**63)
    plain = zipped([("a", png(1))])
    start = plain.rindex(CENTRAL)
    record = bytearray(plain[start : plain.rindex(END)])
    record[42:46], record[30:32] = b"\xff" * 4, struct.pack("<H", len(extra))
    end = bytearray(plain[plain.rindex(END) :])
    end[12:16] = struct.pack("<I", len(record) + len(extra))
    assert read(listed(tmp_path, plain[:start] + bytes(record) + extra + bytes(end))) == ["corrupt"]


def test_an_archive_that_was_written_anew_since_listing_is_told(tmp_path: Path) -> None:
    members = listed(tmp_path, zipped(FILMS))
    (tmp_path / "x.zip").write_bytes(zipped([*FILMS[:1], ("other", png(7))]))
    assert read(members) == [FILMS[0][1], "changed", "changed", "changed", "changed"]

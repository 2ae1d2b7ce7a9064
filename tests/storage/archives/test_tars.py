"""Listing and reading tar and tar.gz, well made and badly; where archives lie is left to test_read.py."""

from __future__ import annotations

import gzip
import io
import subprocess
import tarfile
from pathlib import Path

import pytest
from archive_files import info, png, tar, tar_gz

from covseg_ray.radiograph.film import Rejected
from covseg_ray.storage.archives.members import Member
from covseg_ray.storage.archives.read import list_members, read_members
from covseg_ray.storage.archives.tars import HEADER_BYTES

FILMS = [(f"in/{number}.png", png(number)) for number in range(5)]
NAMES = [f"in/{number}.png" for number in range(5)]


def listed(tmp_path: Path, name: str, data: bytes) -> list[Member]:
    (tmp_path / name).write_bytes(data)
    return list(list_members(str(tmp_path / name)))


def problems(members: list[Member]) -> list[tuple[str, str | None]]:
    return [(member.image_id, member.problem) for member in members]


def read(members: list[Member]) -> list[bytes | str]:
    found = list(read_members(members))
    assert [member for member, _ in found] == members
    return [data.reason if isinstance(data, Rejected) else data for _, data in found]


def header(number: int) -> int:
    """Where the header of film ``number`` lies: each film takes one block of header and whole blocks of data."""
    return sum(512 + -(-len(data) // 512) * 512 for _, data in FILMS[:number])


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_members_lie_where_they_are_listed(tmp_path: Path, form: int) -> None:
    data = tar([*FILMS, ("deep/" * 30 + "é" * 40 + ".png", png(9))], form)
    members = listed(tmp_path, "x.tar", data)
    assert [member.name for member in members] == [*NAMES, "deep/" * 30 + "é" * 40 + ".png"]
    assert {member.kind for member in members} == {"tar"}
    for member, (_, film) in zip(members, FILMS, strict=False):
        assert data[member.offset : member.offset + member.size] == film
    assert read(members) == [*(film for _, film in FILMS), png(9)]


@pytest.mark.parametrize("name", ["x.tar", "x.tar.gz", "x.TGZ"])
def test_a_tar_is_told_from_a_tar_gz_by_its_bytes(tmp_path: Path, name: str) -> None:
    for data, kind in ((tar(FILMS), "tar"), (tar_gz(FILMS), "tar.gz")):
        members = listed(tmp_path, name, data)
        assert [(member.image_id, member.kind) for member in members] == [(f"{name}/{each}", kind) for each in NAMES]
        assert read(members) == [film for _, film in FILMS]


def test_what_gnu_tar_writes_of_a_whole_folder(tmp_path: Path) -> None:
    (tmp_path / "tree/in").mkdir(parents=True)
    for name, film in FILMS:
        (tmp_path / "tree" / name).write_bytes(film)
    (tmp_path / "tree/._hidden").write_bytes(b"1")
    subprocess.run(["tar", "-czf", tmp_path / "x.tgz", "-C", tmp_path / "tree", "."], check=True)
    members = sorted(list_members(str(tmp_path / "x.tgz")), key=lambda member: member.name)
    assert [member.image_id for member in members] == [f"x.tgz/{name}" for name in NAMES]
    assert read(members) == [film for _, film in FILMS]


def test_a_tar_gz_is_read_in_any_order(tmp_path: Path) -> None:
    members = listed(tmp_path, "x.tar.gz", tar_gz(FILMS))
    order = [3, 0, 4, 4, 1]
    assert read([members[number] for number in order]) == [FILMS[number][1] for number in order]


def test_members_that_are_no_files(tmp_path: Path) -> None:
    entries = [
        info("folder", type=tarfile.DIRTYPE),
        info("sym.png", type=tarfile.SYMTYPE, linkname="/etc/passwd"),
        info("hard.png", type=tarfile.LNKTYPE, linkname="a.png"),
        info("pipe", type=tarfile.FIFOTYPE),
        info("disk", type=tarfile.BLKTYPE),
        info("tty", type=tarfile.CHRTYPE),
        info("label", type=b"V"),
        ("a.png", png(1)),
    ]
    members = listed(tmp_path, "x.tar", tar(entries))
    assert problems(members) == [
        ("x.tar/sym.png", "link"),
        ("x.tar/hard.png", "link"),
        ("x.tar/pipe", "not-a-file"),
        ("x.tar/disk", "not-a-file"),
        ("x.tar/tty", "not-a-file"),
        ("x.tar/label", "not-a-file"),
        ("x.tar/a.png", None),
    ]
    assert read(members) == ["link", "link", "not-a-file", "not-a-file", "not-a-file", "not-a-file", png(1)]


def test_a_sparse_member_is_no_film(tmp_path: Path) -> None:
    with (tmp_path / "a.png").open("wb") as file:
        file.write(png(1))
        file.seek(2**20)
        file.write(b"end")
    subprocess.run(["tar", "-S", "-cf", tmp_path / "x.tar", "-C", tmp_path, "a.png"], check=True)
    assert problems(list(list_members(str(tmp_path / "x.tar")))) == [("x.tar/a.png", "unsupported")]


def test_hostile_names_become_safe_ids(tmp_path: Path) -> None:
    names = ["../../a.png", "/etc/b.png", "c\n\x1b[2J.png", "d/" * 2000 + "d.png", "é\udcff.png", "same", "same"]
    members = listed(tmp_path, "x.tar", tar([(name, png(number)) for number, name in enumerate(names)]))
    assert [member.image_id for member in members[:3]] == [
        "x.tar/%2E%2E/%2E%2E/a.png",
        "x.tar/%2Fetc/b.png",
        "x.tar/c%0A%1B[2J.png",
    ]
    assert len(members[3].image_id) <= 1000
    assert members[4].image_id == "x.tar/é%ED%B3%BF.png"
    assert [member.image_id for member in members[5:]] == ["x.tar/same", "x.tar/same#2"]
    assert members[4].name == "é\\udcff.png"
    assert read(members) == [png(number) for number in range(7)]


@pytest.mark.parametrize("name", ["x.tar", "x.tar.gz"])
@pytest.mark.parametrize("cut", [header(2), header(2) + 200, header(2) + 512, header(3) - 10, header(5) + 100])
def test_of_a_cut_tar_the_films_before_the_cut_stay(tmp_path: Path, name: str, cut: int) -> None:
    data = tar(FILMS, tarfile.USTAR_FORMAT)[:cut]
    members = listed(tmp_path, name, gzip.compress(data) if name.endswith("gz") else data)
    whole = [number for number in range(5) if header(number) + 512 + len(FILMS[number][1]) <= cut]
    begun = [number for number in range(5) if header(number) + 512 <= cut]
    assert problems(members) == [*((f"{name}/in/{number}.png", None) for number in begun), (name, "broken-archive")]
    expected = [FILMS[number][1] if number in whole else "truncated" for number in begun]
    assert read(members) == [*expected, "broken-archive"]


def test_of_a_cut_tar_gz_the_films_before_the_cut_stay(tmp_path: Path) -> None:
    noise = [(f"{number}.png", png(number, 200)) for number in range(5)]
    data = gzip.compress(tar(noise))
    members = listed(tmp_path, "x.tgz", data[: len(data) // 2])
    assert problems(members)[-1] == ("x.tgz", "broken-archive")
    found = read(members)
    assert found[:2] == [noise[0][1], noise[1][1]]
    assert set(found[2:]) <= {"truncated", "broken-archive"}


def test_of_a_tar_gz_that_was_cut_since_listing_the_films_before_the_cut_are_read(tmp_path: Path) -> None:
    noise = [(f"{number}.png", png(number, 200)) for number in range(5)]
    data = gzip.compress(tar(noise))
    members = listed(tmp_path, "x.tgz", data)
    (tmp_path / "x.tgz").write_bytes(data[: len(data) // 2])
    assert read(members) == [noise[0][1], noise[1][1], "truncated", "truncated", "truncated"]
    assert read([members[4], members[0]]) == ["truncated", noise[0][1]]


@pytest.mark.parametrize("name", ["x.tar", "x.tar.gz"])
def test_a_bad_header_in_the_middle_is_told(tmp_path: Path, name: str) -> None:
    data = bytearray(tar(FILMS, tarfile.USTAR_FORMAT))
    data[header(3) + 150] ^= 1  # in the check sum
    with tarfile.open(fileobj=io.BytesIO(bytes(data))) as archive:
        assert archive.getnames() == NAMES[:3]  # which is what tarfile makes of it
    members = listed(tmp_path, name, gzip.compress(data) if name.endswith("gz") else bytes(data))
    assert problems(members) == [*((f"{name}/{each}", None) for each in NAMES[:3]), (name, "broken-archive")]
    assert read(members) == [*(film for _, film in FILMS[:3]), "broken-archive"]


def test_a_changed_byte_in_a_tar_gz_is_told_by_its_check_sum(tmp_path: Path) -> None:
    data = bytearray(gzip.compress(tar(FILMS), 0))  # stored, so that every change still unpacks
    data[header(1) + 600] ^= 1
    members = listed(tmp_path, "x.tar.gz", bytes(data))
    assert problems(members) == [*((f"x.tar.gz/{each}", None) for each in NAMES), ("x.tar.gz", "broken-archive")]


@pytest.mark.parametrize(
    "data", [b"", b"no tar at all", bytes(100), b"\x1f\x8b", b"\x1f\x8b\x08" + bytes(50), b"x" * 4096]
)
def test_what_is_no_tar_is_one_member(tmp_path: Path, data: bytes) -> None:
    members = listed(tmp_path, "x.tar", data)
    assert members == [Member("x.tar", str(tmp_path / "x.tar"), "file", "", 0, len(data), "broken-archive")]
    assert read(members) == ["broken-archive"]


def test_an_empty_tar_holds_nothing(tmp_path: Path) -> None:
    assert listed(tmp_path, "x.tar", tar([])) == []
    assert listed(tmp_path, "x.tar.gz", tar_gz([])) == []


def numbered(name: str, size: int) -> bytes:
    """A header with a size that octal digits cannot hold, below zero too."""
    block = bytearray(info(name).tobuf(tarfile.GNU_FORMAT))
    block[124:136] = (size & (2**96 - 1)).to_bytes(12, "big") if size < 0 else b"\x80" + size.to_bytes(11, "big")
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


@pytest.mark.parametrize("size", [-1, -1024, -(2**60)])
@pytest.mark.parametrize("name", ["x.tar", "x.tar.gz"])
def test_a_size_below_zero_ends_the_archive(tmp_path: Path, name: str, size: int) -> None:
    data = tar(FILMS[:1], tarfile.USTAR_FORMAT)[: header(1)] + numbered("b.png", size) + bytes(2048)
    members = listed(tmp_path, name, gzip.compress(data) if name.endswith("gz") else data)
    assert problems(members) == [(f"{name}/in/0.png", None), (name, "broken-archive")]


@pytest.mark.parametrize("size", [2**40, 2**50, 2**62, 2**80])
def test_a_size_beyond_the_end_is_never_asked_for(tmp_path: Path, size: int) -> None:
    data = tar(FILMS[:1], tarfile.USTAR_FORMAT)[: header(1)] + numbered("b.png", size) + png(1)
    members = listed(tmp_path, "x.tar", data)
    assert problems(members) == [("x.tar/in/0.png", None), ("x.tar/b.png", None), ("x.tar", "broken-archive")]
    assert read(members) == [FILMS[0][1], "too-large", "broken-archive"]


def test_headers_larger_than_any_end_the_archive(tmp_path: Path) -> None:
    fits, too_long = "a" * (HEADER_BYTES - 2048), "b" * HEADER_BYTES
    members = listed(tmp_path, "x.tar", tar([(fits, png(1)), (too_long, png(2)), ("c", png(3))], tarfile.GNU_FORMAT))
    assert [(member.name, member.problem) for member in members] == [(fits, None), ("", "broken-archive")]


def test_headers_without_end_end_the_archive(tmp_path: Path) -> None:
    link = info("././@LongLink", type=tarfile.GNUTYPE_LONGNAME).tobuf(tarfile.GNU_FORMAT)
    assert problems(listed(tmp_path, "x.tar", link * 2000)) == [("x.tar", "broken-archive")]


def test_global_headers_change_nothing(tmp_path: Path) -> None:
    data = b""
    for number in range(50):
        data += tarfile.TarInfo.create_pax_global_header({f"key{number}": "value", "comment": "made by git"})
        film = png(number)
        data += info(f"{number}.png", len(film)).tobuf(tarfile.USTAR_FORMAT) + film + bytes(-len(film) % 512)
    members = listed(tmp_path, "x.tar", data + bytes(1024))
    assert read(members) == [png(number) for number in range(50)]

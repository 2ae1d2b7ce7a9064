from __future__ import annotations

import errno
import io
import os
from pathlib import Path

import numpy as np
import pytest
from archive_files import png
from PIL import Image

from covseg_ray.errors import StorageError
from covseg_ray.radiograph.decode import decode
from covseg_ray.radiograph.film import Radiograph, Rejected
from covseg_ray.storage.archives.members import (
    HEAD_BYTES,
    PROBLEMS,
    LimitedFile,
    check_size,
    member_name,
    read_film,
    reject_damaged,
    reject_unreadable,
)
from covseg_ray.storage.filesystem import translated


class Reads:
    """A film's bytes, and the ranges that were asked for."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.asked: list[tuple[int, int]] = []

    def __call__(self, first: int, last: int) -> bytes:
        self.asked.append((first, last))
        return self.data[first:last]


def saved(kind: str, size: int = 8) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((size, size), np.uint8)).save(buffer, kind)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF"])
def test_whatever_can_be_decoded_is_read(kind: str) -> None:
    data = saved(kind)
    assert isinstance(decode(data), Radiograph)
    assert read_film(Reads(data), len(data)) == data


@pytest.mark.parametrize(
    "head",
    [
        bytes(128) + b"DICM\x02\x00\x00\x00UL\x04\x00",
        b"\x08\x00\x05\x00CS\x0a\x00ISO_IR 100",
        b"\x08\x00\x08\x00\x08\x00\x00\x00ORIGINAL",
        b"\x02\x00\x10\x00UI\x14\x001.2.840.10008.1.2.1\0",
        b"MM\x00\x2a\x00\x00\x00\x08",
        b"II\x2b\x00\x08\x00\x00\x00",
    ],
)
def test_dicom_with_and_without_preamble_and_all_tiffs_are_read(head: bytes) -> None:
    data = head + bytes(200_000)
    assert read_film(Reads(data), len(data)) == data


@pytest.mark.parametrize(
    "head", [b"", b"<html>", b"GIF89a", b"PK\x03\x04", b"\x89PNX", b"\x08\x00\x05\x00\xff\xff\xff\x7f"]
)
def test_no_more_than_the_first_64_kib_of_what_is_no_film_are_read(head: bytes) -> None:
    reads = Reads(head + bytes(500_000))
    found = read_film(reads, 500_000)
    assert isinstance(found, Rejected)
    assert found.reason == "not-an-image"
    assert reads.asked == [(0, HEAD_BYTES)]


@pytest.mark.parametrize("size", [1, 100, HEAD_BYTES - 1, HEAD_BYTES, HEAD_BYTES + 1, 3 * HEAD_BYTES])
def test_a_film_is_read_whole_and_no_further_than_its_size(size: int) -> None:
    reads = Reads((b"\xff\xd8\xff" + os.urandom(300_000))[:size] + b"beyond")
    if size < 3:
        assert isinstance(read_film(reads, size), Rejected)
    else:
        assert read_film(reads, size) == reads.data[:size]
    assert max(last for _, last in reads.asked) == size


def test_sizes_that_lie() -> None:
    data = png(1)
    assert check_size(data, len(data)) == data
    assert check_size(data, len(data) + 9) == Rejected("truncated", f"{len(data)} bytes of {len(data) + 9} are there")
    assert check_size(data, len(data) - 1) == Rejected("changed", PROBLEMS["changed"])
    assert check_size(read_film(Reads(b""), 7), 7) == Rejected("truncated", "0 bytes of 7 are there")
    assert check_size(Rejected("x", "y"), 1) == Rejected("x", "y")


def test_damage_is_told_without_the_words_of_the_error() -> None:
    assert reject_damaged(EOFError("patient name")).reason == "truncated"
    found = reject_damaged(ValueError("patient name"))
    assert found.reason == "corrupt"
    assert "patient" not in found.detail


def test_rations_end() -> None:
    file = LimitedFile(io.BytesIO(b"x" * 1000), end=1000, left=600)
    assert (file.read(500), file.left, file.last) == (b"x" * 500, 100, b"x" * 500)
    with pytest.raises(ValueError, match="headers"):
        file.read(2**40)
    file.seek(0)
    file.left = 1000
    assert len(file.read()) == 1000
    file.seek(0)
    file.left = 10
    with pytest.raises(ValueError, match="headers"):
        file.read()


def test_rationed_files_seek_like_those_on_disk(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"12345")
    with (tmp_path / "x").open("rb") as opened:
        for file in (opened, LimitedFile(io.BytesIO(b"12345"), end=5, left=100)):
            assert file.seek(-2, os.SEEK_END) == 3
            assert file.tell() == 3
            with pytest.raises(OSError, match=r".") as caught:
                file.seek(-6, os.SEEK_END)
            assert caught.value.errno == errno.EINVAL


@pytest.mark.parametrize("offset", [-1, 6, 2**63, 2**80])
def test_rationed_files_have_nothing_outside(offset: int) -> None:
    with pytest.raises(ValueError, match="outside"):
        LimitedFile(io.BytesIO(b"12345"), end=5, left=100).seek(offset)


@pytest.mark.parametrize(
    ("name", "inner"),
    [("./a", "a"), ("././/./a/./b", "a/./b"), (".//a", "a"), ("../a", "../a"), (".a", ".a"), ("/a", "/a"), ("", "")],
)
def test_inner_names(name: str, inner: str) -> None:
    assert member_name(name) == inner


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (FileNotFoundError(errno.ENOENT, "x"), "missing"),
        (NotADirectoryError(errno.ENOTDIR, "x"), "missing"),
        (OSError(errno.ENAMETOOLONG, "x"), "missing"),
        (PermissionError(errno.EACCES, "x"), "refused"),
    ],
)
def test_what_is_wrong_with_one_file_is_a_reason(tmp_path: Path, error: OSError, reason: str) -> None:
    with pytest.raises(StorageError) as caught, translated("x"):
        raise error
    assert reject_unreadable(str(tmp_path), caught.value) == Rejected(reason, PROBLEMS[reason])


def test_what_is_wrong_with_storage_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError) as caught, translated("x"):
        raise OSError(errno.EIO, "Input/output error")
    with pytest.raises(StorageError, match="Input/output"):
        reject_unreadable(str(tmp_path), caught.value)


@pytest.mark.usefixtures("s3_server")
def test_a_missing_bucket_is_no_missing_film() -> None:
    with pytest.raises(StorageError) as caught, translated("x"):
        raise FileNotFoundError(errno.ENOENT, "x")
    with pytest.raises(StorageError, match="bucket"):
        reject_unreadable("s3://covseg-no-such-bucket/x.png", caught.value)

"""Members of tar and tar.gz: list both, read the latter. The first bytes, not the name, tell one from the other.

Python's tarfile takes a bad header in the middle of an archive for its end, keeps every member it has seen, and reads a
header of any claimed length. Here the first is an error, the second is dropped, the third limited.
"""

from __future__ import annotations

import gzip
import os
import sys
import tarfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import IO, cast

from covseg_ray.radiograph.film import Rejected
from covseg_ray.storage.archives.image_ids import Copies, image_id
from covseg_ray.storage.archives.members import (
    DAMAGE,
    Kind,
    LimitedFile,
    Member,
    member_name,
    read_stream,
    reject_damaged,
)
from covseg_ray.storage.archives.source_files import SourceFile, is_hidden, open_archive

HEADER_BYTES = 64 * 2**10  # of one member, long names and extended attributes included
_GZIP = b"\x1f\x8b"
_CHUNK_BYTES = 2**20


def list_tar(file: SourceFile) -> Iterator[Member]:
    """The members of a tar or tar.gz in their order; raises one of `DAMAGE` at the first damaged byte."""
    copies = Copies()
    with open_archive(file.uri) as opened:
        kind, stream, end = _stream(opened)
        for info in _headers(stream, end):
            name = member_name(info.name)
            if info.isdir() or is_hidden(name):
                continue
            yield Member(
                image_id=image_id(file.path, name, copies.count(name)),
                container=file.uri,
                kind=kind,
                name=name.encode("utf-8", "backslashreplace").decode(),
                offset=info.offset_data,
                size=info.size,
                problem=_problem(info),
            )
        while kind == "tar.gz" and stream.read(_CHUNK_BYTES):  # to the check sum
            pass


def _stream(opened: IO[bytes]) -> tuple[Kind, IO[bytes], int]:
    """The kind of tar, the unpacked stream, and an upper bound of its length in bytes."""
    zipped = opened.read(len(_GZIP)) == _GZIP
    end = opened.seek(0, os.SEEK_END)
    opened.seek(0)
    return ("tar.gz", _gunzip(opened), sys.maxsize) if zipped else ("tar", opened, end)


def _gunzip(opened: IO[bytes]) -> IO[bytes]:
    return cast(IO[bytes], gzip.GzipFile(fileobj=opened, mode="rb"))


def _headers(stream: IO[bytes], end: int) -> Iterator[tarfile.TarInfo]:
    limited = LimitedFile(stream, end, HEADER_BYTES)
    archive = tarfile.TarFile(fileobj=cast(IO[bytes], limited), encoding="utf-8")
    while (info := archive.next()) is not None:
        if info.size < 0 or archive.offset < info.offset_data:
            raise tarfile.ReadError("a member of less than no bytes")
        yield info
        archive.members.clear()  # type: ignore[attr-defined]
        archive.pax_headers = {}
        limited.left = HEADER_BYTES
    if limited.last != bytes(tarfile.BLOCKSIZE):
        raise tarfile.ReadError("no end mark: a bad header, or the archive was cut")


def _problem(info: tarfile.TarInfo) -> str | None:
    if info.islnk() or info.issym():
        return "link"
    if not info.isreg():
        return "not-a-file"
    return "unsupported" if info.issparse() else None


def tar_gz_reader(container: str, files: ExitStack) -> Callable[[Member], bytes | Rejected]:
    """Reads members of one tar.gz as a stream; a member before the current place starts it again from the beginning."""
    stream: IO[bytes] | None = None
    damage: tuple[int, Rejected] | None = None

    def read(member: Member) -> bytes | Rejected:
        nonlocal stream, damage
        if damage is not None and member.offset >= damage[0]:
            return damage[1]
        try:
            if stream is None or stream.tell() > member.offset:
                files.close()
                stream = _gunzip(files.enter_context(open_archive(container)))
            stream.seek(member.offset)
            return read_stream(stream, member.size)
        except DAMAGE as error:
            stream, damage = None, (member.offset, reject_damaged(error))
            return damage[1]

    return read

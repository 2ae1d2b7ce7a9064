"""Members of zip archives: list the central directory, read by the position in it."""

from __future__ import annotations

import os
import stat
import sys
import zipfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache
from typing import IO, cast

from covseg_ray.radiograph.film import Rejected
from covseg_ray.storage.archives.image_ids import Copies, image_id
from covseg_ray.storage.archives.members import (
    DAMAGE,
    LimitedFile,
    Member,
    member_name,
    read_stream,
    reject,
    reject_damaged,
)
from covseg_ray.storage.archives.source_files import SourceFile, is_hidden, open_archive

DIRECTORY_BYTES = 64 * 2**20  # some 700,000 members; in memory they take ten times that
BOMB_BYTES = 16 * 2**20
BOMB_RATIO = 200
_ENCRYPTED = 0x1


def list_zip(file: SourceFile) -> Iterator[Member]:
    """The members of a zip in the order of its directory; raises one of `DAMAGE` where that cannot be read."""
    copies = Copies()
    with open_archive(file.uri) as opened:
        listed = _open_zip(opened).infolist()
    for number, info in enumerate(listed):
        name = member_name(info.filename)
        if info.is_dir() or is_hidden(name):
            continue
        yield Member(
            image_id=image_id(file.path, name, copies.count(name)),
            container=file.uri,
            kind="zip",
            name=name,
            offset=number,
            size=info.file_size,
            problem=_problem(info),
        )


def _open_zip(file: IO[bytes]) -> zipfile.ZipFile:
    limited = LimitedFile(file, file.seek(0, os.SEEK_END), DIRECTORY_BYTES)
    archive = zipfile.ZipFile(cast(IO[bytes], limited))
    limited.left = sys.maxsize
    return archive


def _problem(info: zipfile.ZipInfo) -> str | None:
    mode = stat.S_IFMT(info.external_attr >> 16)
    if mode not in (0, stat.S_IFREG):
        return "link" if stat.S_ISLNK(mode) else "not-a-file"
    if info.flag_bits & _ENCRYPTED:
        return "encrypted"
    # Of bzip2 and lzma, zipfile unpacks as much at once as there is.
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return "unsupported"
    if info.file_size > BOMB_BYTES and info.file_size > BOMB_RATIO * info.compress_size:
        return "bomb"
    return None


def zip_reader(container: str, files: ExitStack) -> Callable[[Member], bytes | Rejected]:
    """Reads members of one zip, whose directory is read once."""
    open_once = cache(lambda: _open_zip(files.enter_context(open_archive(container))))

    def read(member: Member) -> bytes | Rejected:
        try:
            archive = open_once()
            listed = archive.infolist()[member.offset : member.offset + 1]
            if [(member_name(info.filename), info.file_size) for info in listed] != [(member.name, member.size)]:
                return reject("changed")
            with archive.open(listed[0]) as stream:
                return read_stream(stream, member.size)
        except DAMAGE as error:
            return reject_damaged(error)

    return read

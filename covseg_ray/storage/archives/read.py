"""List and read the films of an archive, millions of them: listed as a stream, read without unpacking to disk.

A source is a folder or prefix, a glob, one file, a manifest (CSV or Parquet) or a packed dataset. Tar, tar.gz and zip
files in it are opened; an archive inside an archive is one input, and rejected as no film.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from itertools import groupby, islice

from covseg_ray.errors import StorageError
from covseg_ray.radiograph.film import Rejected
from covseg_ray.storage.archives.dataset_rows import list_rows, list_shards
from covseg_ray.storage.archives.image_ids import ARCHIVE_ENDINGS, image_id
from covseg_ray.storage.archives.members import (
    DAMAGE,
    Member,
    check_member,
    check_size,
    read_film,
    read_in_order,
    reject,
    reject_unreadable,
    try_read,
)
from covseg_ray.storage.archives.source_files import SourceFile, list_source, locate_file
from covseg_ray.storage.archives.tars import list_tar, tar_gz_reader
from covseg_ray.storage.archives.zips import list_zip, zip_reader
from covseg_ray.storage.datasets.info import DATASET_FILE
from covseg_ray.storage.filesystem import Location, exists, join, read_bytes, translated

LISTERS = 8
AHEAD_FILES = 16
PAGE_MEMBERS = 4000
READERS = 8
AHEAD_FILMS = 32
AHEAD_BYTES = 64 * 2**20

Lister = Callable[[SourceFile], Iterator[Member]]

_ARCHIVE_READERS = {"tar.gz": tar_gz_reader, "zip": zip_reader}


def list_members(source: str) -> Iterator[Member]:
    """Every input of ``source``, ordered by the path of its file and then by its place inside.

    Files and members that cannot be films are listed with their `problem`; an archive that cannot be read to its end is
    itself listed as one member after those before the damage. Several threads list archives, a few thousand members
    ahead. Raises StorageError where nothing is there or the storage fails, UsageError for an invalid glob,
    DatasetError for a manifest or a dataset that cannot be used.
    """
    files = list_source(source)
    if _is_dataset(source):
        return _list_files(list_shards(source), lambda file: list_rows)
    return _list_files(files, _lister)


def read_members(members: Iterable[Member]) -> Iterator[tuple[Member, bytes | Rejected]]:
    """The bytes of each member or its rejection, in the order of ``members``; use `read_rows` for members of shards.

    Files and tar are read by ranges in several threads, up to 32 films or 64 MiB ahead. A zip or tar.gz is opened once
    for as many of its members as follow one another; a tar.gz is unpacked once, from its beginning to the last of
    them, if they come in the order of listing. Raises StorageError where the storage itself fails.
    """
    for (kind, container), run in groupby(members, key=_read_strategy):
        if kind == "shard":
            raise ValueError(f"{container}: rows hold pixels; read_rows gives them")
        if kind == "range":
            yield from _read_ranges(run)
        else:
            yield from read_in_order(container, run, _ARCHIVE_READERS[kind])


def _is_dataset(source: str) -> bool:
    """Whether ``dataset.json`` is there and in our format: other programs use that name, too."""
    uri = join(source, DATASET_FILE)
    if not exists(uri):
        return False
    try:
        document = json.loads(read_bytes(uri))
    except ValueError:
        return False
    return isinstance(document, dict) and "shards" in document


def _lister(file: SourceFile) -> Lister | None:
    name = file.path.lower()
    if not name.endswith(tuple(f".{each}" for each in ARCHIVE_ENDINGS)) or file.problem is not None:
        return None
    return list_zip if name.endswith(".zip") else list_tar


def _list_files(files: Iterator[SourceFile], lister: Callable[[SourceFile], Lister | None]) -> Iterator[Member]:
    with ThreadPoolExecutor(LISTERS) as pool:
        ahead = deque(_start_listing(pool, file, lister(file)) for file in islice(files, AHEAD_FILES))
        try:
            while ahead:
                yield from ahead.popleft()
                ahead.extend(_start_listing(pool, file, lister(file)) for file in islice(files, 1))
        finally:
            pool.shutdown(cancel_futures=True)


def _start_listing(pool: ThreadPoolExecutor, file: SourceFile, lister: Lister | None) -> Iterator[Member]:
    """The members of a file; of an archive, the first of them are already being listed."""
    if lister is None:
        return iter([_file_member(file, file.problem)])
    members = _list_archive(file, lister)
    return _pages(pool, members, pool.submit(list, islice(members, PAGE_MEMBERS)))


def _pages(pool: ThreadPoolExecutor, members: Iterator[Member], page: Future[list[Member]]) -> Iterator[Member]:
    while listed := page.result():
        page = pool.submit(list, islice(members, PAGE_MEMBERS))
        yield from listed


def _list_archive(file: SourceFile, lister: Lister) -> Iterator[Member]:
    try:
        with translated(file.uri):
            location = locate_file(file.uri)
            if file.size < 0 and location.fs.info(location.path)["type"] != "file":
                yield _file_member(file, "not-a-file")
                return
            try:
                yield from lister(file)
            except DAMAGE:
                yield _file_member(file, "broken-archive")
    except StorageError as error:
        yield _file_member(file, reject_unreadable(file.uri, error).reason)


def _file_member(file: SourceFile, problem: str | None) -> Member:
    return Member(image_id(file.path), file.uri, "file", "", 0, file.size, problem)


def _read_strategy(member: Member) -> tuple[str, str]:
    return ("range", "") if member.kind in ("file", "tar") else (member.kind, member.container)


def _read_ranges(members: Iterator[Member]) -> Iterator[tuple[Member, bytes | Rejected]]:
    pending: deque[tuple[Member, Future[bytes | Rejected]]] = deque()
    with ThreadPoolExecutor(READERS) as pool:
        try:
            for member in members:
                pending.append((member, pool.submit(_read_range, member)))
                while len(pending) > AHEAD_FILMS or sum(_expected_bytes(each) for each, _ in pending) > AHEAD_BYTES:
                    yield _next_result(pending)
            while pending:
                yield _next_result(pending)
        finally:
            pool.shutdown(cancel_futures=True)


def _expected_bytes(member: Member) -> int:
    return member.size if member.size >= 0 else AHEAD_BYTES // READERS


def _next_result(pending: deque[tuple[Member, Future[bytes | Rejected]]]) -> tuple[Member, bytes | Rejected]:
    member, future = pending.popleft()
    return member, future.result()


def _read_range(member: Member) -> bytes | Rejected:
    refused = check_member(member)
    if refused is not None:
        return refused
    return try_read(member.container, lambda: _read_located(locate_file(member.container), member))


def _read_located(location: Location, member: Member) -> bytes | Rejected:
    if member.size < 0:
        info = location.fs.info(location.path)
        if info["type"] != "file":
            return reject("not-a-file")
        return _read_range(replace(member, size=int(info["size"])))
    # Of a file one byte more than there should be, to see whether there are more.
    size, start = member.size + (member.kind == "file"), member.offset
    return check_size(read_film(lambda first, last: _fetch(location, start + first, start + last), size), member.size)


def _fetch(location: Location, first: int, last: int) -> bytes:
    try:
        return bytes(location.fs.cat_file(location.path, start=first, end=last))
    except OSError as error:
        code = getattr(error.__cause__, "response", {}).get("Error", {}).get("Code")
        if code in ("InvalidRange", "416"):
            return b""  # S3: the range begins after the end; a disk returns no bytes
        raise

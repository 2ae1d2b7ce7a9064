"""The files that a source names: a folder or prefix, a glob, one file, or a manifest of files; listed as a stream.

Hidden files and folders, ``__MACOSX`` and ``DICOMDIR`` are left out, except where a manifest or the source itself
names them. The order is that of the paths' bytes, on disk as in a bucket.
"""

from __future__ import annotations

import os
import re
import stat
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import IO, Any
from urllib.parse import quote_from_bytes, unquote_to_bytes

from fsspec.utils import glob_translate

from covseg_ray.errors import StorageError, UsageError
from covseg_ray.storage.archives.manifests import MANIFESTS, manifest_entries
from covseg_ray.storage.filesystem import Location, locate, translated

UNKNOWN_SIZE = -1
READ_AHEAD_BYTES = 2 * 2**20
Entry = tuple[str, int, str | None]

_WILDCARD = re.compile(r"[*?[]")
_URI = re.compile(r"[a-z][a-z0-9+.-]*://|/", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file: its URI, its path relative to the source, its size in bytes (-1: unknown), its `problem` if any."""

    uri: str
    path: str
    size: int
    problem: str | None = None


def list_source(source: str) -> Iterator[SourceFile]:
    """The files of ``source``; it is a glob only where nothing has that very name.

    Raises StorageError where nothing is there or the storage fails, UsageError for an invalid glob, DatasetError
    for a manifest that cannot be used.
    """
    location = locate(source)
    if not location.is_local and _WILDCARD.search(location.path.partition("/")[0]):
        raise UsageError(f"{source}: a pattern in the bucket's name; name the bucket")
    kind, size = _stat(location)
    if kind == "directory":
        return _require_files(source, _walk(location, location.path.rstrip("/") + "/"))
    if kind == "glob":
        return _require_files(source, _glob(source, location))
    if location.path.lower().endswith(MANIFESTS):
        return _manifest(location)
    name = location.path.rpartition("/")[2]
    return iter([SourceFile(_uri(location), name, size, None if kind == "file" else "not-a-file")])


def locate_file(uri: str) -> Location:
    """The location of a `SourceFile`; its path is taken literally, whatever characters it contains."""
    scheme, _, rest = uri.partition("://")
    if scheme == "file":
        return Location(locate("/").fs, os.fsdecode(unquote_to_bytes(rest)))
    if uri.startswith("/"):
        return Location(locate("/").fs, uri)
    if scheme in ("s3", "s3a"):
        return Location(locate(f"{scheme}://{rest.partition('/')[0]}").fs, rest)
    return locate(uri)


def open_archive(uri: str) -> IO[bytes]:
    """Open an archive with read-ahead: its members are small and adjacent."""
    location = locate_file(uri)
    file: IO[bytes] = location.fs.open(location.path, "rb", block_size=READ_AHEAD_BYTES, cache_type="readahead")
    return file


def is_hidden(path: str) -> bool:
    """Whether ``path`` is not an input: hidden, a resource fork of macOS, or the index of a DICOM disc."""
    components = path.split("/")
    dotted = any(part.startswith(".") and part not in (".", "..") for part in components)
    return dotted or "__MACOSX" in components or components[-1].upper() == "DICOMDIR"


def _stat(location: Location) -> tuple[str, int]:
    """``file``, ``directory``, ``other``, or ``glob`` where nothing has that name and it is a pattern; and the size."""
    with translated(location.uri):
        try:
            info = location.fs.info(location.path)
        except FileNotFoundError:
            if _WILDCARD.search(location.path):
                return "glob", UNKNOWN_SIZE
            raise
    return str(info["type"]), _size(info)


def _size(info: dict[str, Any]) -> int:
    return UNKNOWN_SIZE if info["size"] is None else int(info["size"])


def _require_files(source: str, files: Iterator[SourceFile]) -> Iterator[SourceFile]:
    empty = True
    for file in files:
        empty = False
        yield file
    if empty:
        raise StorageError(f"{source}: no files there; check the name")


def _glob(source: str, location: Location) -> Iterator[SourceFile]:
    prefix = _WILDCARD.split(location.path, maxsplit=1)[0]
    base = prefix.rpartition("/")[0]
    try:
        pattern = re.compile(glob_translate(location.path))
    except ValueError as error:
        raise UsageError(f"{source}: {error}; write it as /**/") from error
    deepest = sys.maxsize if "**" in location.path else location.path.count("/")
    return (file for file in _walk(location, prefix, deepest) if pattern.match(f"{base}/{file.path}"))


def _walk(location: Location, prefix: str, deepest: int = sys.maxsize) -> Iterator[SourceFile]:
    """Files whose path begins with ``prefix``, with a path relative to the last folder in it; folders on disk below
    ``deepest`` slashes are not entered.
    """
    base = prefix.rpartition("/")[0] + "/"
    with translated(location.uri):
        for found, size, problem in _entries(location, base, prefix, deepest):
            path = found.removeprefix(base)
            if not is_hidden(path):
                yield SourceFile(_uri(replace(location, path=found)), path, size, problem)


def _entries(location: Location, base: str, prefix: str, deepest: int) -> Iterator[Entry]:
    if location.is_local:
        return _local_entries(base, deepest)
    if "s3" in location.fs.protocol:
        return _s3_entries(location, prefix)
    found = location.fs.find(base, detail=True)
    return ((path, _size(info), None) for path, info in sorted(found.items()))


def _local_entries(folder: str, deepest: int) -> Iterator[Entry]:
    pending = [folder]
    while pending:
        path = pending.pop()
        if path.endswith("/") and path.count("/") > deepest:
            continue
        if path.endswith("/"):
            # The slash of a folder counts in the sort order, as in a bucket.
            pending.extend(sorted(_children(path), key=os.fsencode, reverse=True))
        else:
            yield path, *_local_file(path)


def _children(folder: str) -> Iterator[str]:
    with os.scandir(folder) as entries:
        for entry in entries:
            name = entry.name + "/" if entry.is_dir(follow_symlinks=False) else entry.name
            if not is_hidden(name):
                yield folder + name


def _local_file(path: str) -> tuple[int, str | None]:
    """Size and problem. A link to a file is that file; one to a folder, or to nothing, is a problem."""
    try:
        found = os.stat(path)  # noqa: PTH116  a Path costs more than the call
    except OSError:
        return 0, "link" if os.path.islink(path) else "missing"  # noqa: PTH114
    if stat.S_ISREG(found.st_mode):
        return found.st_size, None
    return 0, "link" if stat.S_ISDIR(found.st_mode) else "not-a-file"


def _s3_entries(location: Location, prefix: str) -> Iterator[Entry]:
    """Page by page, in the order of keys; s3fs's ``find`` holds every entry at once."""
    bucket, _, key = prefix.partition("/")
    following: dict[str, str] = {}
    while True:
        page = location.fs.call_s3("list_objects_v2", Bucket=bucket, Prefix=key, **following)
        for entry in page.get("Contents", []):
            if not entry["Key"].endswith("/"):  # the marker of a folder
                yield f"{bucket}/{entry['Key']}", int(entry["Size"]), None
        if not page.get("IsTruncated"):
            return
        following = {"ContinuationToken": page["NextContinuationToken"]}


def _uri(location: Location) -> str:
    """The URI of a file; a local name that is no UTF-8 becomes a percent-encoded ``file://``."""
    name = os.fsencode(location.path) if location.is_local else b""
    try:
        name.decode()
    except UnicodeDecodeError:
        return f"file://{quote_from_bytes(name)}"
    return location.uri


def _manifest(location: Location) -> Iterator[SourceFile]:
    files = {file.uri: file for file in (_manifest_file(location, entry) for entry in manifest_entries(location))}
    for scheme in {match[0] for match in map(_URI.match, files) if match and match[0] != "/"}:
        locate(scheme)  # refuses one that cannot be used
    return (files[uri] for uri in sorted(files))


def _manifest_file(manifest: Location, entry: str) -> SourceFile:
    """The file of a manifest's entry; below the manifest's folder its path is relative to that, else its whole URI."""
    folder = manifest.path.rpartition("/")[0]
    if not _URI.match(entry):
        return SourceFile(_uri(replace(manifest, path=f"{folder}/{entry}")), entry, UNKNOWN_SIZE)
    uri = _uri(locate(entry)) if entry.startswith("file://") else entry
    path = uri.removeprefix(_uri(replace(manifest, path=folder)) + "/")
    return SourceFile(uri, uri if _URI.match(path) else path, UNKNOWN_SIZE)

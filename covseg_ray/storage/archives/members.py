"""One input of bulk segmentation, and the checks on its bytes, whatever holds it.

A size that an archive declares is never trusted: only bytes that arrive count. A member whose first bytes are of no
known format is not read further.
"""

from __future__ import annotations

import errno
import gzip
import os
import re
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import IO, Literal, TypeVar

from covseg_ray.errors import StorageError
from covseg_ray.radiograph.film import Limits, Rejected
from covseg_ray.radiograph.formats import NOT_AN_IMAGE, UNKNOWN_FORMAT, recognise
from covseg_ray.storage.filesystem import exists, translated

MAX_BYTES = Limits().max_bytes
HEAD_BYTES = 64 * 2**10

PROBLEMS = {
    "bomb": "over 16 MiB, and over 200 times what it takes in the archive",
    "broken-archive": "the archive cannot be read from here on; what stands before is listed; copy or make it again",
    "changed": "not the same any more as when it was listed; list again",
    "encrypted": "encrypted; put it into an archive without a password",
    "link": "a link to a folder, to nothing, or inside an archive; give the file that it points to",
    "missing": "not there, or not any more",
    "not-a-file": "a folder, a device or a pipe where a file was expected",
    "refused": "the storage refuses this one; check its permissions and its storage class",
    "unsupported": "a sparse file, or a compression other than deflate; put it into the archive as an ordinary file",
}
# What tarfile, zipfile and gzip raise on bad bytes.
DAMAGE = (
    tarfile.TarError,
    zipfile.BadZipFile,
    gzip.BadGzipFile,
    zlib.error,
    struct.error,
    EOFError,
    ValueError,
    LookupError,
    OverflowError,
    RuntimeError,
)

Kind = Literal["file", "tar", "tar.gz", "zip", "shard"]
Film = TypeVar("Film")

_DOT_SLASH = re.compile(r"(?:\./+)+")
_NO_SUCH_NAME = (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP)


@dataclass(frozen=True, slots=True)
class Member:
    """One input: a file, a member of an archive, or a row of a shard.

    `container` is the URI of the file, archive or shard; `name` the name inside, empty for a file. `offset` is where it
    lies there: the byte where its data begin in a tar (in the unpacked stream of a tar.gz), its place in the directory
    of a zip, the row of a shard. `size` is in bytes as declared, -1 where listing does not know. `problem` is a key of
    `PROBLEMS` where listing has found that it cannot be a film. All text is valid UTF-8.
    """

    image_id: str
    container: str
    kind: Kind
    name: str
    offset: int
    size: int
    problem: str | None = None


class LimitedFile:
    """A file of `end` bytes with a budget of `left` bytes to read: the headers of an archive may claim any length.
    `last` holds the bytes of the last read.
    """

    def __init__(self, file: IO[bytes], end: int, left: int) -> None:
        self._file, self._end = file, end
        self.left = left
        self.last = b""

    def read(self, size: int = -1) -> bytes:
        """Raises ValueError where the budget is exceeded."""
        self.last = self._file.read(min(size, self.left + 1) if size >= 0 else self.left + 1)
        self.left -= len(self.last)
        if self.left < 0:
            raise ValueError("headers that take more bytes than those of any archive")
        return self.last

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Raises OSError for a place before the file where local files do, on which zipfile relies; else ValueError."""
        if whence == os.SEEK_END and self._end + offset < 0:
            raise OSError(errno.EINVAL, "before the beginning of the file")
        if whence == os.SEEK_SET and not 0 <= offset <= self._end:
            raise ValueError("an offset outside the file")
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def seekable(self) -> bool:
        return True


def member_name(name: str) -> str:
    """The name of a member without the ``./`` that it begins with in archives of a whole folder."""
    match = _DOT_SLASH.match(name)
    return name[match.end() :] if match else name


def reject(problem: str) -> Rejected:
    return Rejected(problem, PROBLEMS[problem])


def check_member(member: Member) -> Rejected | None:
    """The rejection of a member that need not be read: what was found while listing."""
    if member.problem is not None:
        return reject(member.problem)
    if member.size == 0:
        return Rejected("empty", "the file holds no bytes")
    if member.size > MAX_BYTES:
        return Rejected("too-large", f"{member.size:,} bytes, the limit is {MAX_BYTES:,}")
    return None


def reject_unreadable(container: str, error: StorageError) -> Rejected:
    """The rejection of one file that storage refuses; raises ``error`` where it concerns more than that file."""
    cause = error.__cause__
    if isinstance(cause, PermissionError):
        problem = "refused"
    elif isinstance(cause, FileNotFoundError) or (isinstance(cause, OSError) and cause.errno in _NO_SUCH_NAME):
        problem = "missing"
    else:
        raise error
    exists(container)  # raises where the bucket is missing, or refuses everything
    return reject(problem)


def try_read(container: str, read: Callable[[], Film]) -> Film | Rejected:
    """The result of ``read``, or a rejection where storage refuses that one file."""
    try:
        with translated(container):
            return read()
    except StorageError as error:
        return reject_unreadable(container, error)


def read_in_order(
    container: str, members: Iterable[Member], reader: Callable[[str, ExitStack], Callable[[Member], Film | Rejected]]
) -> Iterator[tuple[Member, Film | Rejected]]:
    """Each member by the function that ``reader`` makes for the container, or its rejection. What that function opens
    on the stack stays open for all of them. Raises StorageError where the storage itself fails."""
    with ExitStack() as files:
        read = reader(container, files)
        for member in members:
            refused = check_member(member)
            yield member, try_read(container, partial(read, member)) if refused is None else refused


def reject_damaged(error: Exception) -> Rejected:
    """The rejection for an error of `DAMAGE`; the error's own text may hold names and is left out."""
    if isinstance(error, EOFError):
        return Rejected("truncated", "the archive ends inside it")
    return Rejected("corrupt", f"its bytes in the archive are damaged ({type(error).__name__})")


def read_film(read: Callable[[int, int], bytes], size: int) -> bytes | Rejected:
    """The bytes up to ``size`` by ``read(first, last)``; of an unknown format only the first 64 KiB are read."""
    head = read(0, min(size, HEAD_BYTES))
    if head and recognise(head) is None:
        return Rejected(NOT_AN_IMAGE, UNKNOWN_FORMAT)
    return head + read(HEAD_BYTES, size) if len(head) == HEAD_BYTES < size else head


def check_size(data: bytes | Rejected, size: int) -> bytes | Rejected:
    """``data``, rejected unless it has ``size`` bytes."""
    if isinstance(data, Rejected) or len(data) == size:
        return data
    if len(data) < size:
        return Rejected("truncated", f"{len(data):,} bytes of {size:,} are there")
    return reject("changed")


def read_stream(stream: IO[bytes], size: int) -> bytes | Rejected:
    """A film of ``size`` bytes from where the stream stands."""
    return check_size(read_film(lambda first, last: stream.read(last - first), size), size)

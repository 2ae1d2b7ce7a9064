"""Bytes at a URI: local paths, ``file://``, ``s3://`` and whatever other scheme fsspec has a package for.

S3 takes its endpoint, keys and region from the usual ``AWS_*`` variables. Whatever goes wrong becomes one
:class:`~covseg_ray.errors.StorageError` of one line.
"""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec
import s3fs.core
from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError
from fsspec.implementations.local import LocalFileSystem
from pyarrow import ArrowException
from pyarrow.fs import FSSpecHandler, PyFileSystem

from covseg_ray.errors import StorageError, first_line

CONNECT_SECONDS = 3
READ_SECONDS = 20
PARALLEL_FILES = 8


@dataclass(frozen=True, slots=True)
class Location:
    """A path on a filesystem; pickles, so that it can be sent to another process."""

    fs: Any
    path: str

    @property
    def is_local(self) -> bool:
        return isinstance(self.fs, LocalFileSystem)

    @property
    def uri(self) -> str:
        return self.path if self.is_local else str(self.fs.unstrip_protocol(self.path))


def locate(uri: str) -> Location:
    """The filesystem and path behind ``uri``. Opens no connection. Raises StorageError for an unknown scheme."""
    scheme, separator, rest = uri.partition("://")
    if not separator or scheme == "file":
        return Location(LocalFileSystem(), str(Path(rest if separator else uri).expanduser().absolute()))
    if scheme in ("s3", "s3a"):  # a key is taken literally: fsspec would chain URIs at "::"
        fs = fsspec.filesystem("s3", **_s3_options())
        s3fs.core.set_custom_error_handler(_server_failed)
        return Location(fs, rest.rstrip("/"))
    try:
        fs, path = fsspec.core.url_to_fs(uri, use_listings_cache=False)
    except (ImportError, ValueError) as error:
        raise StorageError(f"{uri}: cannot use {scheme}:// here ({first_line(error)}); use a path or s3://") from error
    return Location(fs, str(path).rstrip("/"))


def _server_failed(error: Exception) -> bool:
    """Whether s3fs should retry where it does not by itself: it does not retry a 500."""
    status = getattr(error, "response", {}).get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    return isinstance(error, ClientError) and int(status) >= 500


def _s3_options() -> dict[str, Any]:
    config: dict[str, Any] = {
        "connect_timeout": CONNECT_SECONDS,
        "read_timeout": READ_SECONDS,
        "retries": {"total_max_attempts": 2, "mode": "standard"},
        "max_pool_connections": 32,
    }
    options: dict[str, Any] = {"use_listings_cache": False, "config_kwargs": config}
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    if endpoint:
        # Servers other than AWS refuse the SDK's trailing checksums with HTTP 411.
        config["request_checksum_calculation"] = "when_required"
        config["response_checksum_validation"] = "when_required"
        options["endpoint_url"] = endpoint
    return options


def join(uri: str, *parts: str) -> str:
    return "/".join([uri.rstrip("/"), *parts])


@contextmanager
def translated(uri: str) -> Iterator[None]:
    """Turn what storage raises about ``uri`` into one StorageError that says what to do."""
    try:
        yield
    except FileNotFoundError as error:
        raise StorageError(f"{uri}: not found ({first_line(error)}); check the name and the bucket") from error
    except (PermissionError, NoCredentialsError) as error:
        advice = "check the AWS_* credentials" if "://" in uri else "check the permissions"
        raise StorageError(f"{uri}: refused ({first_line(error)}); {advice}") from error
    except (BotoCoreError, ClientError) as error:
        raise StorageError(f"{uri}: {first_line(error)}; check AWS_ENDPOINT_URL and that the server is up") from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageError(f"{uri}: storage full; free space or choose another place, then run again") from error
        raise StorageError(f"{uri}: {first_line(error)}") from error


@contextmanager
def parquet_damage(damaged: Callable[[Exception], Exception]) -> Iterator[None]:
    """Raise what ``damaged`` makes of an error of Parquet's bytes: Arrow's own, or its OSError without a number."""
    try:
        yield
    except (ArrowException, UnicodeDecodeError, OSError) as error:
        if isinstance(error, OSError) and (type(error) is not OSError or error.errno is not None):
            raise
        raise damaged(error) from error


def read_bytes(uri: str) -> bytes:
    location = locate(uri)
    with translated(uri):
        if location.is_local:
            return Path(location.path).read_bytes()
        return bytes(location.fs.cat_file(location.path))


def write_bytes(uri: str, data: bytes) -> None:
    """Write a whole file: a reader sees the old bytes or the new, never a part."""
    location = locate(uri)
    with translated(uri):
        if location.is_local:
            with _temporary(Path(location.path), data) as temporary:
                temporary.replace(location.path)
        else:
            location.fs.pipe_file(location.path, data)


@contextmanager
def _temporary(path: Path, data: bytes) -> Iterator[Path]:
    """A file of ``data`` beside ``path`` while the block runs; makes their folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        temporary.write_bytes(data)
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def create_bytes(uri: str, data: bytes) -> bool:
    """Write a file only if none is there, in one step; of several writers only one gets True."""
    location = locate(uri)
    with translated(uri):
        try:
            if location.is_local:
                _create_local(Path(location.path), data)
            else:
                location.fs.pipe_file(location.path, data, mode="create")
        except FileExistsError:
            return False
        except OSError as error:
            # s3fs answers a failed If-None-Match with EINVAL.
            if error.errno == errno.EINVAL and location.fs.exists(location.path):
                return False
            raise
    return True


def _create_local(path: Path, data: bytes) -> None:
    with _temporary(path, data) as temporary:
        try:
            os.link(temporary, path)  # a reader that finds the file finds all of it
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP):  # as exFAT and some network drives do
                raise
            with path.open("xb") as file:
                file.write(data)


def exists(uri: str) -> bool:
    """Whether a file or folder is there; raises StorageError where that cannot be known, or the bucket is missing."""
    location = locate(uri)
    with translated(uri):
        found = bool(location.fs.exists(location.path))
        if not found:
            _require_bucket(location)
    return found


def list_files(uri: str) -> list[str]:
    """Every file below ``uri``, sorted, as paths relative to it; an absent folder has none, an absent bucket raises."""
    location = locate(uri)
    with translated(uri):
        found = location.fs.find(location.path)
        if not found:
            _require_bucket(location)
    prefix = location.path.rstrip("/") + "/"
    return sorted(path.removeprefix(prefix) for path in found if path.startswith(prefix))


def _require_bucket(location: Location) -> None:
    if "s3" in location.fs.protocol and not location.fs.exists(location.path.split("/")[0]):
        raise FileNotFoundError("no such bucket")


def delete(uri: str) -> None:
    """Remove a file or a folder with all in it; nothing there is no error."""
    location = locate(uri)
    with translated(uri):
        if location.fs.exists(location.path):
            location.fs.rm(location.path, recursive=True)


def write_files(uri: str, files: Mapping[str, bytes]) -> None:
    """Write ``files`` (relative name to bytes) below ``uri``, several at a time."""
    with ThreadPoolExecutor(PARALLEL_FILES) as pool:
        list(pool.map(lambda name: write_bytes(join(uri, name), files[name]), files))


def read_files(uri: str, names: Sequence[str]) -> dict[str, bytes]:
    """The files ``names`` below ``uri``, several at a time. Raises StorageError where one is missing."""
    with ThreadPoolExecutor(PARALLEL_FILES) as pool:
        return dict(zip(names, pool.map(lambda name: read_bytes(join(uri, name)), names), strict=True))


def delete_files(uri: str, names: Iterable[str]) -> None:
    """Remove the files ``names`` below ``uri``, several at a time; one that is not there is no error."""
    with ThreadPoolExecutor(PARALLEL_FILES) as pool:
        list(pool.map(lambda name: delete(join(uri, name)), names))


def arrow_filesystem(location: Location) -> Any:
    """The same filesystem for pyarrow (and Ray Train's ``storage_filesystem``), with the same credentials; pickles."""
    return PyFileSystem(_Handler(location.fs))


class _Handler(FSSpecHandler):  # type: ignore[misc]  # pyarrow carries no types
    """Sets up in another process what `locate` sets up in this one."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        s3fs.core.set_custom_error_handler(_server_failed)

from __future__ import annotations

import errno
import os
import pickle
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Thread

import pyarrow.fs
import pytest

from covseg_ray.errors import CovsegError, DatasetError, StorageError
from covseg_ray.storage.datasets.read import read_info
from covseg_ray.storage.filesystem import (
    arrow_filesystem,
    create_bytes,
    delete,
    exists,
    join,
    list_files,
    locate,
    read_bytes,
    read_files,
    translated,
    write_bytes,
    write_files,
)

GIVEN = dict(os.environ)


@pytest.fixture(params=["local", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "local":
        return str(tmp_path / "with blank")
    return join(request.getfixturevalue("bucket"), tmp_path.name, "with blank")


def test_what_is_written_is_read_back(place: str) -> None:
    uri = join(place, "a", "b c.bin")
    assert not exists(uri)
    write_bytes(uri, b"one")
    write_bytes(uri, b"two")
    assert exists(uri)
    assert read_bytes(uri) == b"two"
    assert list_files(place) == ["a/b c.bin"]
    delete(place)
    assert list_files(place) == []


def test_a_folder_of_files_goes_and_comes_back_whole(place: str) -> None:
    files = {f"deep/{number}.bin": bytes([number]) * number for number in range(20)}
    write_files(place, files)
    assert read_files(place, list(files)) == files
    assert read_files(place, ["deep/3.bin"]) == {"deep/3.bin": b"\x03\x03\x03"}


def test_of_many_creators_one_alone_wins(place: str) -> None:
    uri = join(place, "lease")
    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(lambda number: create_bytes(uri, bytes([number])), range(8)))
    assert sum(won) == 1
    assert read_bytes(uri) == bytes([won.index(True)])


def test_whoever_finds_a_created_file_finds_all_of_it(tmp_path: Path) -> None:
    path, data, sizes = tmp_path / "file", bytes(64 * 2**20), []

    def look() -> None:
        while not path.exists():
            continue
        sizes.append(path.stat().st_size)

    watcher = Thread(target=look)
    watcher.start()
    assert create_bytes(str(path), data)
    watcher.join()
    assert sizes == [len(data)]
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_is_created_where_there_are_no_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*paths: Path) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    path = tmp_path / "file"
    assert create_bytes(str(path), b"first")
    assert not create_bytes(str(path), b"second")
    assert path.read_bytes() == b"first"
    assert list(tmp_path.iterdir()) == [path]


def test_nothing_there_is_one_clear_line(place: str) -> None:
    for action in (lambda: read_bytes(join(place, "absent")), lambda: read_files(place, ["absent"])):
        with pytest.raises(StorageError, match="absent") as caught:
            action()
        assert "\n" not in str(caught.value)


def test_arrow_sees_the_same_files_after_pickling(place: str) -> None:
    write_bytes(join(place, "x.bin"), b"abc")
    location = pickle.loads(pickle.dumps(locate(place)))
    arrow = pickle.loads(pickle.dumps(arrow_filesystem(location)))
    assert isinstance(arrow, pyarrow.fs.PyFileSystem)
    with arrow.open_input_file(f"{location.path}/x.bin") as file:
        assert file.read() == b"abc"
    with arrow.open_output_stream(f"{location.path}/y.bin") as file:
        file.write(b"def")
    assert read_bytes(join(place, "y.bin")) == b"def"


def test_a_failed_local_write_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    with pytest.raises(StorageError):
        write_bytes(str(tmp_path / "taken"), b"x")
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


def test_file_scheme_is_a_path(tmp_path: Path) -> None:
    write_bytes(f"file://{tmp_path}/x", b"1")
    assert (tmp_path / "x").read_bytes() == b"1"
    assert locate(f"file://{tmp_path}/x").uri == str(tmp_path / "x")


def test_s3_uri_survives_the_round_trip(s3_server: str) -> None:
    assert locate("s3://bucket/some/key").uri == "s3://bucket/some/key"


@pytest.mark.usefixtures("s3_server")
@pytest.mark.parametrize("action", [read_info, list_files, lambda uri: write_bytes(uri, b"1"), exists])
def test_a_missing_bucket_is_named(action: Callable[[str], object]) -> None:
    with pytest.raises(StorageError, match=r"s3://covseg-no-such-bucket/x.*bucket"):
        action("s3://covseg-no-such-bucket/x")


def test_an_endpoint_that_is_down_fails_within_ten_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{unused.getsockname()[1]}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
    started = time.monotonic()
    with pytest.raises(StorageError, match="AWS_ENDPOINT_URL"):
        read_bytes("s3://bucket/key")
    assert time.monotonic() - started < 10


def test_an_endpoint_that_does_not_answer_the_call_fails_within_ten_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)
        full = [socket.socket() for _ in range(3)]  # the queue is full: further connections hang
        for each in full:
            each.setblocking(False)
            each.connect_ex(deaf.getsockname())
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{deaf.getsockname()[1]}")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
        started = time.monotonic()
        with pytest.raises(StorageError):
            read_bytes("s3://bucket/key")
        assert time.monotonic() - started < 10
        for each in full:
            each.close()


def test_wrong_credentials_are_said_to_be(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if "AWS_ENDPOINT_URL" not in GIVEN:
        pytest.skip("the server that tests start themselves checks no credentials; set AWS_ENDPOINT_URL to a real one")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    filesystem = locate(bucket).fs
    filesystem.clear_instance_cache()
    started = time.monotonic()
    with pytest.raises(StorageError, match="credentials"):
        write_bytes(join(bucket, "x"), b"1")
    assert time.monotonic() - started < 10
    filesystem.clear_instance_cache()


def test_an_unknown_scheme_is_refused() -> None:
    with pytest.raises(StorageError, match="use a path or s3://"):
        locate("nonsense://x/y")


def test_errors_are_translated_by_what_can_be_done() -> None:
    cases: list[tuple[Exception, type[CovsegError], str]] = [
        (OSError(errno.ENOSPC, "No space left on device"), StorageError, "storage full"),
        (PermissionError(errno.EACCES, "Permission denied"), StorageError, "permissions"),
        (OSError(errno.EIO, "Input/output error"), StorageError, "Input/output error"),
        (DatasetError("mine"), DatasetError, "mine"),
    ]
    for raised, expected, text in cases:
        with pytest.raises(expected, match=text), translated("/data/x"):
            raise raised


def test_a_full_disk_is_said_to_be_full() -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    with pytest.raises(StorageError, match="storage full"), translated("/dev/full"):
        Path("/dev/full").write_bytes(b"x" * 100_000)

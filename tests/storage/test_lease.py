"""One run at a time on an output: refused while held, free again when its holder ends, dies or falls silent."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from covseg_ray.errors import BusyError
from covseg_ray.storage import lease
from covseg_ray.storage.filesystem import join, list_files, read_bytes, write_bytes

HOLD = """
import sys, time
from covseg_ray.storage.lease import hold
with hold(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture(params=["local", pytest.param("s3", marks=pytest.mark.s3)])
def output(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "out") if request.param == "local" else f"{request.getfixturevalue('bucket')}/{tmp_path.name}"


@pytest.fixture
def holder(output: str) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the output."""
    with subprocess.Popen([sys.executable, "-c", HOLD, output], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_second_run_is_refused_by_name_and_changes_nothing(output: str, holder: subprocess.Popen[str]) -> None:
    before = list_files(output)
    with pytest.raises(BusyError, match=f"process {holder.pid} on "), lease.hold(output):
        pytest.fail("two runs hold one output")
    assert list_files(output) == before


def test_a_killed_run_keeps_nothing(output: str, holder: subprocess.Popen[str]) -> None:
    holder.kill()
    holder.wait()
    begin = time.monotonic()
    with lease.hold(output) as held:
        held.check()
    assert time.monotonic() - begin < lease.STALE_SECONDS / 2


def test_given_back_also_after_an_error(output: str) -> None:
    for _ in range(3):
        with pytest.raises(ZeroDivisionError), lease.hold(output):
            raise ZeroDivisionError
    with lease.hold(output):
        assert len(list_files(join(output, lease.FOLDER))) == 1


def test_given_back_also_where_storage_is_full(tmp_path: Path) -> None:
    """What ended the run is reported, not that the lease could not be written; the same process may hold it again."""
    if os.geteuid() != 0:
        pytest.skip("a small disk is mounted, which only root can do")
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(tmp_path)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no small disk can be mounted here")
    try:
        with pytest.raises(OSError, match="No space left"), lease.hold(str(tmp_path)):
            (tmp_path / "ballast").write_bytes(bytes(2**21))
        (tmp_path / "ballast").unlink()
        with lease.hold(str(tmp_path)) as held:
            held.check()
    finally:
        subprocess.run(["umount", "-l", str(tmp_path)], check=True)


def test_of_many_at_once_one_alone_gets_it(output: str) -> None:
    def attempt(_: int) -> bool:
        try:
            with lease.hold(output):
                time.sleep(1.5)
        except BusyError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(attempt, range(8))) == 1


def elsewhere(output: str, number: int, beat: str) -> None:
    """A lease as a run on another machine would write it."""
    document = {"host": "other", "place": "other", "pid": 1, "started": "1", "beat": beat, "free": False}
    write_bytes(join(output, lease.FOLDER, f"{number:06d}.json"), json.dumps(document).encode())


def test_a_silent_run_elsewhere_is_followed(output: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "STALE_SECONDS", 2.0)
    elsewhere(output, 7, "a")
    with lease.hold(output):
        assert list_files(join(output, lease.FOLDER)) == ["000008.json"]


def test_a_run_elsewhere_that_still_beats_is_left_alone(output: str) -> None:
    elsewhere(output, 1, "a")
    with ThreadPoolExecutor(1) as pool:
        refused = pool.submit(attempt_once, output)
        time.sleep(1.5)
        elsewhere(output, 1, "b")
        assert refused.result(timeout=30) == "another run holds it (process 1 on other)"
    assert json.loads(read_bytes(join(output, lease.FOLDER, "000001.json")))["beat"] == "b"


def attempt_once(output: str) -> str:
    with pytest.raises(BusyError) as error, lease.hold(output):
        pytest.fail("two runs hold one output")
    return str(error.value).removeprefix(f"{output}: ").split(";")[0]


def test_a_run_that_was_followed_is_told(output: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "BEAT_SECONDS", 0.2)
    with lease.hold(output) as held:
        held.check()
        elsewhere(output, 2, "a")
        time.sleep(1)
        with pytest.raises(BusyError, match="took it over"):
            held.check()
    assert json.loads(read_bytes(join(output, lease.FOLDER, "000002.json")))["host"] == "other"

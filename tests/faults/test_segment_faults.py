"""A bulk segmentation that is killed, or whose storage fails: nothing is lost or stands twice, and no mask changes."""

from __future__ import annotations

import io
import json
import os
import random
import signal
import tarfile
import time
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from flaky_proxy import FlakyProxy
from places import REAL_FILMS
from result_rows import rows_by_item
from runs import Command, descendants, send

from covseg_ray.cli.progress import SegmentProgress
from covseg_ray.engine.bulk.run import Request, segment
from covseg_ray.errors import BusyError
from covseg_ray.radiograph.masks import encode_png
from covseg_ray.radiograph.phantom import make_phantom
from covseg_ray.storage.filesystem import list_files, read_bytes, write_bytes
from covseg_ray.storage.lease import STALE_SECONDS

pytestmark = [pytest.mark.usefixtures("ray_session"), pytest.mark.timeout(900)]
SHORT, FULL = 600, 4000
ACTOR, TASKS = "ray::MapWorker(MapBatches(Segmenter))", "ray::MapBatches"


def write_archive(uri: str, films: int, real: Sequence[Path] = ()) -> None:
    """Real films and then phantoms: half as files, a quarter each in tar and zip; of a hundred one is broken."""
    tar_bytes, zip_bytes = io.BytesIO(), io.BytesIO()
    with tarfile.open(fileobj=tar_bytes, mode="w") as tar, zipfile.ZipFile(zip_bytes, "w") as zipped:
        for index in range(films):
            data = real[index].read_bytes() if index < len(real) else encode_png(make_phantom(2, index, 64).image)
            data = data[:200] if index % 100 == 7 else data
            name = f"film-{index:05d}.png"
            if index % 4 == 0:
                member = tarfile.TarInfo(name)
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
            elif index % 4 == 1:
                zipped.writestr(name, data)
            else:
                write_bytes(f"{uri}/{name}", data)
    write_bytes(f"{uri}/more.tar", tar_bytes.getvalue())
    write_bytes(f"{uri}/more.zip", zip_bytes.getvalue())


def words(source: str, out: str, model: str) -> list[str]:
    return ["segment", source, out, "--model", model]


def done_there(out: str) -> int:
    """How many blocks are done and committed."""
    return sum(name.startswith(".checkpoint/") and "pending" not in name for name in list_files(out))


def await_blocks(command: Command, out: str, blocks: int, timeout: float = 240) -> bool:
    """Wait until so many are done; False where the command ended before."""
    deadline = time.monotonic() + timeout
    while done_there(out) < blocks:
        if command.process.poll() is not None:
            return False
        assert time.monotonic() < deadline, command.errors.read_text()
        time.sleep(0.05)
    return True


def finish(command: Command, films: int) -> dict[str, Any]:
    code, output, errors = command.finish(600)
    assert code == 3, errors
    assert "core_worker.cc" not in errors  # Ray's own warnings of an actor pool
    document: dict[str, Any] = json.loads(output)
    broken = sum(index % 100 == 7 for index in range(films))
    assert (document["ok"], document["rejected"]) == (films - broken, broken)
    return document


@pytest.fixture(scope="module")
def archive(bucket: str) -> str:
    write_archive(f"{bucket}/archive", SHORT)
    return f"{bucket}/archive"


@pytest.fixture(scope="module")
def quiet(ready_bundle: str, archive: str, bucket: str) -> dict[int, Any]:
    """The table of a run that nobody disturbed."""
    out = f"{bucket}/quiet"
    segment(Request(archive, out, ready_bundle), SegmentProgress(io.StringIO()))
    found = rows_by_item(out)
    assert sorted(found) == list(range(SHORT))
    return found


def test_a_killed_command_goes_on_and_a_second_one_is_refused(
    ready_bundle: str, archive: str, bucket: str, quiet: dict[int, Any], tmp_path: Path
) -> None:
    out = f"{bucket}/killed"
    given = words(archive, out, ready_bundle)
    with Command(given, tmp_path) as command:
        assert await_blocks(command, out, 2)
        with pytest.raises(BusyError, match=f"process {command.process.pid} "):
            segment(Request(archive, out, ready_bundle), SegmentProgress(io.StringIO()))
    begun = rows_by_item(out)
    summary = segment(Request(archive, out, ready_bundle), SegmentProgress(io.StringIO()))
    assert summary["inputs"] == SHORT
    found = rows_by_item(out)
    assert found == quiet
    assert {item: found[item] for item in begun} == begun


def test_a_run_resumes_from_compacted_records(
    ready_bundle: str, archive: str, bucket: str, quiet: dict[int, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run of which a third of the blocks are missing, with more records than are left to lie singly."""
    out = f"{bucket}/compacted"
    files = {name: read_bytes(f"{bucket}/quiet/{name}") for name in list_files(f"{bucket}/quiet")}
    missing = sorted(name for name in files if name.startswith(".checkpoint/"))[::3]
    for name, data in files.items():
        if name not in (*missing, "summary.json", "report.html"):
            write_bytes(f"{out}/{name}", data)
    run = json.loads(files["run.json"])
    monkeypatch.setattr("covseg_ray.storage.runs.recovery.MANY_RECORDS", 2)
    progress = SegmentProgress(io.StringIO())
    assert segment(Request(archive, out, ready_bundle), progress)["inputs"] == SHORT
    assert rows_by_item(out) == quiet
    assert json.loads(read_bytes(f"{out}/run.json")) == run
    compacted = [name for name in list_files(out) if name.startswith(".checkpoint/compact-")]
    assert len(compacted) == 1
    assert len(missing) > 1


def test_killed_actors_and_tasks_change_nothing(
    ready_bundle: str, archive: str, bucket: str, quiet: dict[int, Any], tmp_path: Path
) -> None:
    out = f"{bucket}/workers"
    with Command(words(archive, out, ready_bundle), tmp_path) as command:
        killed = []
        for blocks, begin in ((1, ACTOR), (3, TASKS), (4, ACTOR)):
            assert await_blocks(command, out, blocks)
            killed.append(kill_one(command, begin))
        assert killed[0::2] == [True, True], "actors were there to kill"
        finish(command, SHORT)
    assert rows_by_item(out) == quiet


def kill_one(command: Command, begin: str) -> bool:
    workers = command.workers(begin)
    for pid in workers[:1]:
        send(pid, signal.SIGKILL)
    return bool(workers)


def test_sigterm_ends_a_run_in_order(ready_bundle: str, archive: str, bucket: str, tmp_path: Path) -> None:
    out = f"{bucket}/term"
    with Command(words(archive, out, ready_bundle), tmp_path) as command:
        assert await_blocks(command, out, 1)
        begin = time.monotonic()
        send(command.process.pid, signal.SIGTERM)
        code, _, errors = command.finish(30)
        assert (code, time.monotonic() - begin < STALE_SECONDS) == (143, True)
        assert "Traceback" not in errors
        assert not descendants(command.process.pid)


@contextmanager
def behind_a_proxy(
    given: list[str], scratch: Path, share: float = 0, refuse: bool = False
) -> Iterator[tuple[FlakyProxy, Command]]:
    """The command, and what alone it reaches the bucket's server by."""
    with FlakyProxy(os.environ["AWS_ENDPOINT_URL"], share=share, refuse=refuse) as proxy:
        with pytest.MonkeyPatch.context() as there:
            there.setenv("AWS_ENDPOINT_URL", proxy.url)
            command = Command(given, scratch)
        with command:
            yield proxy, command


def test_a_fifth_of_all_requests_may_fail(
    ready_bundle: str, archive: str, bucket: str, quiet: dict[int, Any], tmp_path: Path
) -> None:
    out = f"{bucket}/flaky"
    with behind_a_proxy(words(archive, out, ready_bundle), tmp_path, share=0.2) as (proxy, command):
        finish(command, SHORT)
    assert rows_by_item(out) == quiet
    wrong = sum(proxy.faults.values()) - proxy.faults["passed"]
    assert 0.15 < wrong / sum(proxy.faults.values()) < 0.25
    assert min(proxy.faults[fault] for fault in ("500", "503", "reset-before", "reset-after", "stall")) > 5


@pytest.mark.drill
def test_storage_that_is_away_for_ten_seconds_is_waited_for(
    ready_bundle: str, archive: str, bucket: str, quiet: dict[int, Any], tmp_path: Path
) -> None:
    out = f"{bucket}/away"
    with behind_a_proxy(words(archive, out, ready_bundle), tmp_path) as (proxy, command):
        assert await_blocks(command, out, 1)
        begun = done_there(out)
        proxy.be_away(10)
        finish(command, SHORT)
    assert rows_by_item(out) == quiet
    assert begun < done_there(out), "blocks were left to do"


@pytest.mark.drill
def test_a_refusal_in_the_middle_is_one_line_and_the_run_goes_on(
    ready_bundle: str, archive: str, bucket: str, quiet: dict[int, Any], tmp_path: Path
) -> None:
    """As where credentials run out; tests/faults/test_storage_full.py is the short version."""
    out = f"{bucket}/keys"
    with behind_a_proxy(words(archive, out, ready_bundle), tmp_path) as (proxy, command):
        assert await_blocks(command, out, 1)
        proxy.refuse = True
        code, output, errors = command.finish(120)
    assert (code, output) == (4, ""), errors
    assert errors.splitlines()[-1].endswith("check the AWS_* credentials")
    assert "Traceback" not in errors
    assert done_there(out) < done_there(f"{bucket}/quiet"), "blocks were left to do"
    segment(Request(archive, out, ready_bundle), SegmentProgress(io.StringIO()))
    assert rows_by_item(out) == quiet


def test_a_refusal_is_told_in_one_line_and_soon(ready_bundle: str, bucket: str, tmp_path: Path) -> None:
    given = words(f"{bucket}/archive", f"{bucket}/refused", ready_bundle)
    begin = time.monotonic()
    with behind_a_proxy(given, tmp_path, refuse=True) as (_, command):
        code, output, errors = command.finish(60)
    assert (code, output) == (4, "")
    assert errors.count("\n") == 1
    assert "refused" in errors
    assert "AWS_* credentials" in errors
    assert time.monotonic() - begin < 10


@pytest.mark.drill
@pytest.mark.timeout(7200)
def test_twenty_kills_of_the_command_and_twenty_of_its_workers(ready_bundle: str, bucket: str, tmp_path: Path) -> None:
    source, chance = f"{bucket}/large", random.Random(0)
    write_archive(source, FULL, sorted(REAL_FILMS.glob("*/Val/*/images/*.png")))
    model = ready_bundle
    with Command(words(source, f"{bucket}/large-quiet", model), tmp_path) as command:
        finish(command, FULL)
    expected = rows_by_item(f"{bucket}/large-quiet")
    assert sorted(expected) == list(range(FULL))

    out, in_flight = f"{bucket}/large-killed", []
    while len(in_flight) < 20:
        with Command(words(source, out, model), tmp_path) as command:
            assert await_blocks(command, out, done_there(out) + 1), "ended before it was killed 20 times"
            time.sleep(chance.uniform(0, 1.5))
            assert command.process.poll() is None
        in_flight.append(sum("pending" in name for name in list_files(out) if name.startswith(".checkpoint/")))
    with Command(words(source, out, model), tmp_path) as command:
        finish(command, FULL)
    assert rows_by_item(out) == expected
    print("blocks in flight at each kill:", in_flight)

    out, kills = f"{bucket}/large-workers", 0
    with Command(words(source, out, model), tmp_path) as command:
        while kills < 20:
            assert await_blocks(command, out, done_there(out) + 1), f"ended after {kills} kills"
            time.sleep(chance.uniform(0, 1))
            kills += kill_one(command, chance.choice([ACTOR, TASKS]))
        finish(command, FULL)
    assert rows_by_item(out) == expected

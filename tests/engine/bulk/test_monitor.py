"""Counts of blocks that are reported during a bulk run: each block counts once, and an update costs what is new."""

from __future__ import annotations

import io
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest

from covseg_ray.cli.progress import SegmentProgress
from covseg_ray.engine.bulk.monitor import Monitor, report_block
from covseg_ray.engine.session import open_messages
from covseg_ray.storage.lease import hold
from covseg_ray.storage.runs.result_table import Tally


@pytest.fixture
def monitor(ray_session: None, tmp_path: Path) -> Iterator[Monitor]:
    with hold(str(tmp_path)) as lease:
        yield Monitor(str(tmp_path), open_messages(), lease, SegmentProgress(io.StringIO()), Tally(0, {}), None)


def block(first: int, *reasons: str | None) -> pa.Table:
    """Rows of a block as they are written, with the reason of each one's rejection."""
    items = range(first, first + len(reasons))
    return pa.table({"item": pa.array(items, pa.int64()), "reason": pa.array(reasons, pa.string())})


def test_each_block_counts_once_however_often_it_is_reported(monitor: Monitor) -> None:
    blocks = [block(0, None, "corrupt", None), block(3, None), block(4, "empty", "corrupt")]
    for each in (blocks[0], blocks[1], blocks[0]):
        report_block(each, monitor.messages)
    assert monitor.collect() == Counter({"": 3, "corrupt": 1})
    for each in (blocks[1], blocks[2], blocks[2]):
        report_block(each, monitor.messages)
    once = Counter(reason or "" for each in blocks for reason in each["reason"].to_pylist())
    assert monitor.collect() == once
    assert monitor.collect() == once, "nothing new has come"


def test_an_update_costs_what_is_new_and_not_what_was_before(monitor: Monitor) -> None:
    count = 100_000
    monitor.messages.put_nowait_batch([{"first": 64 * n, "reasons": {"": 63, "corrupt": 1}} for n in range(count)])
    monitor.collect()
    seconds = []
    for number in range(5):
        report_block(block(64 * (count + number), *[None] * 64), monitor.messages)
        begin = time.process_time()
        done = monitor.collect()
        seconds.append(time.process_time() - begin)
    assert done == Counter({"": 63 * count + 5 * 64, "corrupt": count})
    begin = time.process_time()
    again = sum((Counter({"": 63, "corrupt": 1}) for _ in range(count)), Counter[str]())
    assert again["corrupt"] == count
    assert min(seconds) < (time.process_time() - begin) / 5

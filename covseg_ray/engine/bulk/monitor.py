"""Monitoring of a bulk run: collect counts, check that the lease is still held, stop after too many rejects."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import pyarrow as pa
from ray.util.queue import Queue

from covseg_ray.engine.data_context import Rest
from covseg_ray.engine.telemetry import SegmentMetrics
from covseg_ray.errors import TooManyRejectsError
from covseg_ray.storage.lease import Lease
from covseg_ray.storage.runs.result_table import Tally

UPDATE_SECONDS = 1.0


class Progress(Protocol):
    """Called by ``segment`` while it runs; counts are of the whole run, including earlier commands."""

    def listed(self, inputs: int) -> None: ...

    def begin(self, total: int, done: int, reasons: Mapping[str, int]) -> None: ...

    def update(self, ok: int, reasons: Mapping[str, int], actors: int) -> None: ...


@dataclass
class Monitor:
    """``max_rejects`` is a number of inputs. A block that is reported twice, because its task ran again, counts once.
    ``before`` are the counts of earlier commands."""

    out: str
    messages: Queue
    lease: Lease
    progress: Progress
    before: Tally
    max_rejects: int | None
    blocks: set[int] = field(default_factory=set)
    done: Counter[str] = field(default_factory=Counter)
    metrics: SegmentMetrics = field(default_factory=SegmentMetrics)
    updated: float = 0.0

    def __reduce__(self) -> tuple[type[object], tuple[()]]:
        # Ray Data pickles its context, and this with it, into each task, where it is not needed.
        return object, ()

    def update(self, actors: int) -> None:
        """Report progress. Raises BusyError when the lease was lost, TooManyRejectsError above the limit."""
        now = time.monotonic()
        if now - self.updated < UPDATE_SECONDS:
            return
        self.updated = now
        self.lease.check()
        reasons = Counter(self.before.reasons) + self.collect()
        ok = self.before.ok + reasons.pop("", 0)
        self.progress.update(ok, reasons, actors)
        check_rejects(self.out, sum(reasons.values()), self.max_rejects)

    def collect(self) -> Counter[str]:
        """Read the messages received so far; the films that this command has done, by reason of rejection or ""."""
        for message in self.messages.get_nowait_batch(self.messages.qsize()):
            if message["first"] not in self.blocks:
                self.blocks.add(message["first"])
                self.done.update(message["reasons"])
                self.metrics.add(message["reasons"])
        return self.done


def check_rejects(out: str, rejected: int, limit: int | None) -> None:
    if limit is not None and rejected > limit:
        raise TooManyRejectsError(
            f"{out}: {rejected:,} inputs were rejected and --max-rejects allows {limit:,}; covseg-ray results show "
            "lists the reasons; finished results are kept, and the same command with a higher limit resumes the run"
        )


def monitor_callback(monitor: Monitor) -> type[Rest]:
    """The class that Ray Data instantiates for each execution and calls at every step of its scheduling loop."""

    class MonitorCallback(Rest):
        def on_execution_step(self, executor: Any) -> None:
            super().on_execution_step(executor)
            pools = [op for op in executor._topology or {} if "Segmenter" in op.name]  # of actors that predict
            monitor.update(sum(pool.get_actor_info().running for pool in pools))

        def after_execution_succeeds(self, executor: Any) -> None:
            monitor.collect()

    return MonitorCallback


def report_block(finished: pa.Table, messages: Queue) -> pa.Table:
    """Send the driver the counts of a finished block; runs in the task that writes it."""
    reasons = Counter(reason or "" for reason in finished["reason"].to_pylist())
    if finished.num_rows:
        messages.put({"first": finished["item"][0].as_py(), "reasons": dict(reasons)})
    return finished

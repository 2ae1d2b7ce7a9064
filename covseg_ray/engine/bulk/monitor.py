"""What happens beside the films while Ray Data runs over an archive: counts come in, the output stays ours, and too
many rejects end the run."""

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

TELL_SECONDS = 1.0


class Progress(Protocol):
    """What ``segment`` tells while it runs; counts are of the whole run, what earlier commands did included."""

    def listed(self, inputs: int) -> None: ...

    def begin(self, total: int, done: int, reasons: Mapping[str, int]) -> None: ...

    def update(self, ok: int, reasons: Mapping[str, int], actors: int) -> None: ...


@dataclass
class Watch:
    """``most_rejects`` is a number of inputs; blocks that come twice, from a task that ran again, count once."""

    out: str
    messages: Queue
    lease: Lease
    progress: Progress
    begun: Tally
    most_rejects: int | None
    blocks: set[int] = field(default_factory=set)
    done: Counter[str] = field(default_factory=Counter)
    metrics: SegmentMetrics = field(default_factory=SegmentMetrics)
    told: float = 0.0

    def __reduce__(self) -> tuple[type[object], tuple[()]]:
        # Ray Data sends its context, and this with it, along with each task; there it is of no use.
        return object, ()

    def look(self, actors: int) -> None:
        """Tell what has come. Raises BusyError where the output was lost, TooManyRejectsError past the limit."""
        now = time.monotonic()
        if now - self.told < TELL_SECONDS:
            return
        self.told = now
        self.lease.check()
        reasons = Counter(self.begun.reasons) + self.take_in()
        ok = self.begun.ok + reasons.pop("", 0)
        self.progress.update(ok, reasons, actors)
        check_rejects(self.out, sum(reasons.values()), self.most_rejects)

    def take_in(self) -> Counter[str]:
        """What this command has done, by the reason of rejection, with what has come by now."""
        for message in self.messages.get_nowait_batch(self.messages.qsize()):
            if message["first"] not in self.blocks:
                self.blocks.add(message["first"])
                self.done.update(message["reasons"])
        self.metrics.reached(self.done)
        return self.done


def check_rejects(out: str, rejected: int, most: int | None) -> None:
    if most is not None and rejected > most:
        raise TooManyRejectsError(
            f"{out}: {rejected:,} inputs could not be used and --max-rejects allows {most:,}; covseg-ray results show "
            "tells why; what is done stays, and the same command with a higher limit goes on"
        )


def callback(watch: Watch) -> type[Rest]:
    """The class that Ray Data makes an instance of for each execution, and calls at every turn of its loop."""

    class Watching(Rest):
        def on_execution_step(self, executor: Any) -> None:
            super().on_execution_step(executor)
            watch.look(_actors(executor))

        def after_execution_succeeds(self, executor: Any) -> None:
            watch.take_in()

    return Watching


def _actors(executor: Any) -> int:
    """How many actors predict at the moment."""
    pools = [op for op in executor._topology or {} if "Segmenter" in op.name]
    return sum(pool.get_actor_info().running for pool in pools)


def report(finished: pa.Table, messages: Queue) -> pa.Table:
    """Tell the driver how the rows of a block ended; runs in the task that writes them."""
    reasons = Counter(reason or "" for reason in finished["reason"].to_pylist())
    if finished.num_rows:
        messages.put({"first": finished["item"][0].as_py(), "reasons": dict(reasons)})
    return finished

"""Segment an archive: a table with one row for every input, with its mask or with the reason of its rejection."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from typing import Any

import ray

from covseg_ray import __version__
from covseg_ray.engine.bulk.monitor import Monitor, Progress, check_rejects
from covseg_ray.engine.bulk.pipeline import Files, pool_size, run
from covseg_ray.engine.bulk.read import WRITABLE, Options
from covseg_ray.engine.bulk.report import archive_page
from covseg_ray.engine.bundle_io import load_bundle
from covseg_ray.engine.session import open_messages, session
from covseg_ray.errors import UsageError
from covseg_ray.radiograph.frontal_check import LEVEL
from covseg_ray.segmentation.inference.engines import ENGINES
from covseg_ray.segmentation.inference.predictor import engine_of
from covseg_ray.segmentation.network.bundle import Bundle
from covseg_ray.segmentation.network.bundle_files import to_files
from covseg_ray.segmentation.network.preprocess import PREPROCESS_VERSION
from covseg_ray.storage.archives.read import list_members
from covseg_ray.storage.filesystem import exists, join, locate, read_bytes, write_bytes
from covseg_ray.storage.lease import Lease, hold
from covseg_ray.storage.runs.recovery import compact_records, recover
from covseg_ray.storage.runs.result_table import SUMMARY, check_items, read_numbers, read_summary, tally
from covseg_ray.storage.runs.worklist import Worklist, read_worklist, write_worklist

RUN_FILE = "run.json"
REPORT = "report.html"
ROUNDS = 3


@dataclass(frozen=True)
class Request:
    """``max_rejects`` is a number of inputs, or a share of them such as ``0.01``; at most ``actors`` predict. With
    ``reject_unlike``, films that fail the frontal check are rejected. Raises UsageError for values that are wrong
    whatever the inputs are."""

    source: str
    out: str
    model: str
    write: tuple[str, ...] = ()
    engine: str = "auto"
    max_rejects: str | None = None
    actors: int | None = None
    reject_unlike: bool = False

    def __post_init__(self) -> None:
        if unknown := [kind for kind in self.write if kind not in WRITABLE]:
            raise UsageError(f"--write {unknown[0]}: unknown; it takes {', '.join(WRITABLE)}, with commas between")
        if self.engine not in ENGINES:
            raise UsageError(f"--engine {self.engine}: unknown; it takes {', '.join(ENGINES)}")
        self.reject_limit(0)

    def reject_limit(self, inputs: int) -> int | None:
        """``max_rejects`` as a number of ``inputs``; None without a limit."""
        text = self.max_rejects
        if text is None:
            return None
        with contextlib.suppress(ValueError):
            if "." not in text and int(text) >= 0:
                return int(text)
            if "." in text and 0 <= float(text) <= 1:
                return int(float(text) * inputs)
        raise UsageError(f"--max-rejects {text}: give a number of inputs, or a share such as 0.01")


def segment(
    request: Request, progress: Progress, address: str | None = None, allow_open: bool = False
) -> Mapping[str, Any]:
    """Segment an archive, resuming an earlier command of the same run; returns what ``summary.json`` holds.

    Raises the errors of ``covseg_ray.errors``, BusyError while another process writes to the same output.
    """
    bundle = load_bundle(request.model)
    engine_of(bundle, request.engine)  # raises before anything is listed where the model cannot run on it
    request = replace(request, source=locate(request.source).uri, out=locate(request.out).uri)  # for workers elsewhere
    if exists(join(request.out, SUMMARY)):  # a finished run is read, and nothing is written there
        check_same_run(request, bundle)
        return read_summary(request.out)
    with hold(request.out) as lease:
        began = datetime.fromisoformat(check_same_run(request, bundle)["created"])
        listing = read_worklist(request.out) or write_worklist(
            request.out, list_members(request.source), progress.listed
        )
        with session(address, allow_open=allow_open):
            seconds, done = process(request, began, bundle, listing, lease, progress)
        lease.check()
        return summarise(request, bundle, listing, seconds, done, progress)


def check_same_run(request: Request, bundle: Bundle) -> Mapping[str, Any]:
    """What ``run.json`` holds, written where there is none. Raises UsageError where the output holds another run."""
    path = join(request.out, RUN_FILE)
    new = {
        "source": request.source,
        "model_id": bundle.model_id,
        "preprocess_version": PREPROCESS_VERSION,
        "write": request.write,
        "engine": request.engine,
        "reject_unlike": request.reject_unlike,
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }
    if not exists(path):
        write_bytes(path, json.dumps(new, indent=2).encode())
        return new
    old = json.loads(read_bytes(path))
    old["write"] = tuple(old["write"])
    changes = [
        f"{name} was {old[name]!r}, is {now!r}" for name, now in new.items() if old[name] != now and name != "created"
    ]
    if changes:
        raise UsageError(f"{request.out} holds another run: {', '.join(changes)}; choose another OUT, or delete it")
    return old


def process(
    request: Request, began: datetime, bundle: Bundle, listing: Worklist, lease: Lease, progress: Progress
) -> tuple[float, int]:
    """Process the inputs that are not done yet; returns the seconds that it took and the number of inputs."""
    recover(request.out)
    compact_records(request.out)
    before = tally(request.out)
    done = before.ok + before.rejected
    progress.begin(listing.inputs, done, before.reasons)
    if done == listing.inputs:
        return 0.0, 0
    limit = request.reject_limit(listing.inputs)
    monitor = Monitor(request.out, open_messages(), lease, progress, before, limit)
    options = stage_options(bundle, request.out, request.write, began, request.reject_unlike)
    files: Files = [ray.put(to_files(bundle))]
    start = time.perf_counter()
    for _ in range(ROUNDS):
        run(listing, options, files, pool_size(request.actors, bundle, request.engine), monitor)
        if not recover(request.out):  # a killed command's last request may have arrived while this one ran
            break
    return time.perf_counter() - start, listing.inputs - done


def stage_options(
    bundle: Bundle, out: str, write: tuple[str, ...], created: datetime, reject_unlike: bool = False
) -> Options:
    spec = bundle.spec
    return Options(
        out=out,
        size=spec.input_size,
        resize=spec.resize,
        classes=spec.classes,
        model_id=bundle.model_id,
        preprocess_version=PREPROCESS_VERSION,
        write=write,
        created=created,
        reject_unlike=reject_unlike,
    )


def summarise(
    request: Request, bundle: Bundle, listing: Worklist, seconds: float, done: int, progress: Progress
) -> Mapping[str, Any]:
    """Check that every input has one row, and write the report and, last, the summary."""
    counted = check_items(request.out, listing.inputs)
    progress.update(counted.ok, counted.reasons, 0)
    check_rejects(request.out, counted.rejected, request.reject_limit(listing.inputs))
    summary = {
        "source": request.source,
        "out": request.out,
        "model": request.model,
        "model_id": bundle.model_id,
        "engine": engine_of(bundle, request.engine),
        "inputs": listing.inputs,
        "ok": counted.ok,
        "rejected": counted.rejected,
        "reasons": counted.reasons,
        "not_frontal": int((read_numbers(request.out, "frontal")[1] < LEVEL).sum()),
        "frontal_level": LEVEL,
        "films_per_second": done / seconds if seconds else 0.0,
        "seconds": seconds,
        "version": __version__,
    }
    write_bytes(join(request.out, REPORT), archive_page(summary, listing).encode())
    write_bytes(join(request.out, SUMMARY), json.dumps(summary, indent=2).encode())
    return summary

"""An archive of films to a table in which every input stands once: with its mask, or with the reason why not."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from typing import Any

import ray

from covseg_ray import __version__
from covseg_ray.engine.bulk.monitor import Progress, Watch, check_rejects
from covseg_ray.engine.bulk.pipeline import Work, fleet, run
from covseg_ray.engine.bulk.postprocess import WRITABLE, Outlining
from covseg_ray.engine.bulk.read import Wanted
from covseg_ray.engine.bulk.report import archive_page
from covseg_ray.engine.bundle_io import load_bundle
from covseg_ray.engine.messages import open_messages
from covseg_ray.engine.session import session
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
    """``max_rejects`` is a number of inputs, or a share of them where it has a point; ``actors`` at most predict."""

    source: str
    out: str
    model: str
    write: tuple[str, ...] = ()
    engine: str = "auto"
    max_rejects: str | None = None
    actors: int | None = None


@dataclass(frozen=True)
class Run:
    """What makes two commands the same run, as ``run.json`` holds it."""

    source: str
    model_id: str
    preprocess_version: str
    write: tuple[str, ...]
    engine: str
    created: str


def segment(
    request: Request, progress: Progress, address: str | None = None, allow_open: bool = False
) -> Mapping[str, Any]:
    """Segment an archive to its end, going on where an earlier command stopped; gives what ``summary.json`` holds.

    Raises the errors of ``covseg_ray.errors``, BusyError while another process works at the same output.
    """
    bundle = load_bundle(request.model)
    engine_of(bundle, request.engine)  # one that does not go with the model is refused before anything is listed
    request = replace(request, source=locate(request.source).uri, out=locate(request.out).uri)  # for workers elsewhere
    if exists(join(request.out, SUMMARY)):  # a finished run is read, and nothing is written there
        claim(request, bundle)
        return read_summary(request.out)
    with hold(request.out) as lease:
        begun = claim(request, bundle)
        listing = read_worklist(request.out) or write_worklist(
            request.out, list_members(request.source), progress.listed
        )
        with session(address, allow_open=allow_open):
            seconds, done = work(request, begun, bundle, listing, lease, progress)
        lease.check()
        return finish(request, bundle, listing, seconds, done, progress)


def check(request: Request) -> None:
    """Raise UsageError for what can be seen to be wrong before anything is read."""
    unknown = [kind for kind in request.write if kind not in WRITABLE]
    if unknown:
        raise UsageError(f"--write {unknown[0]}: unknown; it takes {', '.join(WRITABLE)}, with commas between")
    if request.engine not in ENGINES:
        raise UsageError(f"--engine {request.engine}: unknown; it takes {', '.join(ENGINES)}")
    most_rejects(request.max_rejects, 0)


def claim(request: Request, bundle: Bundle) -> Run:
    """Write down what this run is, or make sure that what was begun there is the same."""
    path = join(request.out, RUN_FILE)
    new = Run(
        source=request.source,
        model_id=bundle.model_id,
        preprocess_version=PREPROCESS_VERSION,
        write=request.write,
        engine=request.engine,
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
    )
    if not exists(path):
        write_bytes(path, json.dumps(asdict(new), indent=2).encode())
        return new
    document = json.loads(read_bytes(path))
    old = Run(**{**document, "write": tuple(document["write"])})
    changes = [
        f"{name} was {before!r}, is {now!r}"
        for (name, before), now in zip(asdict(old).items(), asdict(new).values(), strict=True)
        if before != now and name != "created"
    ]
    if changes:
        raise UsageError(f"{request.out} holds another run: {', '.join(changes)}; choose another OUT, or delete it")
    return old


def work(
    request: Request, begun: Run, bundle: Bundle, listing: Worklist, lease: Lease, progress: Progress
) -> tuple[float, int]:
    """Do what is not done yet; gives the seconds that it took and how many inputs were done in them."""
    recover(request.out)
    compact_records(request.out)
    before = tally(request.out)
    most = most_rejects(request.max_rejects, listing.inputs)
    done = before.ok + before.rejected
    progress.begin(listing.inputs, done, before.reasons)
    if done == listing.inputs:
        return 0.0, 0
    watch = Watch(request.out, open_messages(), lease, progress, before, most)
    tasks = Work(
        listing=listing,
        wanted=wanted(bundle, request.write),
        outlining=outlining(bundle, request.out, request.write, datetime.fromisoformat(begun.created)),
        engine=request.engine,
        files=[ray.put(to_files(bundle))],
        messages=watch.messages,
    )
    start = time.perf_counter()
    for _ in range(ROUNDS):
        run(tasks, fleet(request.actors, bundle, request.engine), watch)
        if not recover(request.out):  # a killed command's last request may have arrived while this one ran
            break
    return time.perf_counter() - start, listing.inputs - done


def wanted(bundle: Bundle, write: tuple[str, ...]) -> Wanted:
    """What a model and the files beside the table want of each film."""
    return Wanted(bundle.spec.input_size, bundle.spec.resize, "overlays" in write, "dicom-seg" in write)


def outlining(bundle: Bundle, out: str, write: tuple[str, ...], created: datetime) -> Outlining:
    """How a model's classes become rows of the table and the files beside it."""
    spec = bundle.spec
    return Outlining(
        out=out,
        size=spec.input_size,
        resize=spec.resize,
        classes=spec.classes,
        model_id=bundle.model_id,
        preprocess_version=PREPROCESS_VERSION,
        write=write,
        created=created,
    )


def most_rejects(text: str | None, inputs: int) -> int | None:
    """``0.01`` is a share of the inputs, ``20`` a number of them."""
    if text is None:
        return None
    with contextlib.suppress(ValueError):
        if "." not in text and int(text) >= 0:
            return int(text)
        if "." in text and 0 <= float(text) <= 1:
            return int(float(text) * inputs)
    raise UsageError(f"--max-rejects {text}: give a number of inputs, or a share such as 0.01")


def finish(
    request: Request, bundle: Bundle, listing: Worklist, seconds: float, done: int, progress: Progress
) -> Mapping[str, Any]:
    """Make sure that every input stands once, and write the report and, last, the summary."""
    counted = check_items(request.out, listing.inputs)
    progress.update(counted.ok, counted.reasons, 0)
    check_rejects(request.out, counted.rejected, most_rejects(request.max_rejects, listing.inputs))
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

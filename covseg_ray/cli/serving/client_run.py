"""``covseg-ray client`` between its options and its table: many films through a service, several at a time."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from covseg_ray.cli.progress import ClientProgress
from covseg_ray.errors import CovsegError, StorageError, UsageError
from covseg_ray.radiograph.film import Rejected
from covseg_ray.radiograph.formats import FORMAT_NAMES
from covseg_ray.service.client import Client
from covseg_ray.service.schema import PngFilm
from covseg_ray.storage.filesystem import create_bytes, exists, join

# Each kind has a folder of its own, so that no two results have the same path.
RESULTS = {"masks": "{}.png", "overlays": "overlays/{}.png", "dicom-seg": "dicom-seg/{}.dcm"}
FIELDS = {
    *("height", "width", "frontal", "infection_fraction", "lung_fraction", "severity", "expected_iou", "dicom"),
    *("input_sha256", "preprocess_version"),
}
MIN_FAILURES_TO_STOP = 3

Row = dict[str, Any]


@dataclass(frozen=True)
class ClientRequest:
    """``files`` to segment by ``model``, and the ``kinds`` of results to write to ``out``, if given. With
    ``reject_unlike``, the service rejects films that fail its frontal check.

    Raises UsageError for an unknown kind, a missing file, or a result that exists: it may belong to another film.
    """

    files: Sequence[Path]
    out: str | None = None
    kinds: Sequence[str] = ("masks",)
    model: str | None = None
    concurrency: int = 4
    timeout: float = 120.0
    reject_unlike: bool = False

    def __post_init__(self) -> None:
        if unknown := [kind for kind in self.kinds if kind not in RESULTS]:
            raise UsageError(f"--write {unknown[0]!r}: unknown; choose from {', '.join(RESULTS)}")
        for file in self.files:
            if not file.is_file():
                raise UsageError(f"{file}: no such file; give {FORMAT_NAMES} files")
        for name in self.names() if self.out else ():
            for kind in self.kinds:
                if exists(self.target(kind, name)):
                    raise UsageError(f"{self.target(kind, name)}: already exists; choose another --out, or delete it")

    def names(self) -> list[str]:
        """A unique name for each file's results: its stem, with a number if an earlier file has the same."""
        used: set[str] = set()
        count: Counter[str] = Counter()
        return [_unique(file.stem, used, count) for file in self.files]

    def target(self, kind: str, name: str) -> str:
        return join(self.out or "", RESULTS[kind].format(name))


def _unique(stem: str, used: set[str], count: Counter[str]) -> str:
    """Case is ignored: some filesystems treat A.png and a.png as the same file."""
    name = stem
    while name.casefold() in used:
        count[stem] += 1
        name = f"{stem}-{count[stem] + 1}"
    used.add(name.casefold())
    return name


def run(service: Client, request: ClientRequest, progress: ClientProgress) -> tuple[list[Row], StorageError | None]:
    """A row for each file, in order, and the error that stopped the run, if one did.

    A film that fails does not stop the others. But if as many films in a row as are in flight, and at least
    MIN_FAILURES_TO_STOP, get no response or cannot be written, the service is gone or the disk full, and the rest is
    not sent. Raises UsageError if the service cannot do what is requested.
    """
    rows: list[Row] = [{"file": str(file), "status": "unsent"} for file in request.files]
    queue = deque(enumerate(zip(request.files, request.names(), strict=True)))
    limit, in_a_row, stopped = max(MIN_FAILURES_TO_STOP, request.concurrency), 0, None
    for index, result in _results(service, request, queue):
        if isinstance(result, UsageError):
            raise result
        rows[index] |= {"status": "failed", "detail": str(result)} if isinstance(result, CovsegError) else result
        progress.update(rows[index])
        in_a_row = in_a_row + 1 if isinstance(result, StorageError) else 0
        if isinstance(result, StorageError) and in_a_row >= limit and queue:
            stopped = result
            queue.clear()
    return rows, stopped


def _results(
    service: Client, request: ClientRequest, queue: deque[tuple[int, tuple[Path, str]]]
) -> Iterator[tuple[int, Row | CovsegError]]:
    """The result of each film of the queue, in order of completion.

    The threads are daemons: an executor waits for its threads at exit, and Ctrl-C would last as long as a film.
    """
    done: SimpleQueue[tuple[int, Row | CovsegError] | None] = SimpleQueue()

    def worker() -> None:
        try:
            while queue:
                index, film = queue.popleft()
                try:
                    done.put((index, _segment(service, request, *film)))
                except CovsegError as error:
                    done.put((index, error))
        except IndexError:  # another thread took the last item
            pass
        finally:
            done.put(None)

    running = min(request.concurrency, len(queue))
    for _ in range(running):
        threading.Thread(target=worker, daemon=True).start()
    while running:
        result = done.get()
        if result is None:
            running -= 1
        else:
            yield result


def _segment(service: Client, request: ClientRequest, file: Path, name: str) -> Row:
    """Segment one film and write its results. ``detail`` names the results that a segmented film cannot have."""
    deadline = time.monotonic() + request.timeout
    data = _read(file)
    film = service.segment(data, model=request.model, reject_unlike=request.reject_unlike, timeout=request.timeout)
    if isinstance(film, Rejected):
        return {"status": "rejected", "reason": film.reason, "detail": film.detail}
    written, missing = [], []
    for kind in request.kinds if request.out else ():
        content = _content(service, film, kind, data, request.model, deadline)
        if isinstance(content, Rejected):
            missing.append(f"no {kind}: {content.detail}")
        elif content is not None:
            written.append(_write(request.target(kind, name), content))
    model = {"model": film.model.name, "model_id": film.model.model_id}
    detail = "; ".join(missing) or None
    return {"status": "ok", **film.model_dump(include=FIELDS), **model, "written": written, "detail": detail}


def _content(
    service: Client, film: PngFilm, kind: str, data: bytes, model: str | None, deadline: float
) -> bytes | Rejected | None:
    """A result's bytes; None for the DICOM SEG of a film that is not a DICOM file."""
    if kind == "masks":
        return film.mask.data
    if kind == "overlays":
        return service.overlay(data, model=model, timeout=deadline - time.monotonic())
    return service.seg(data, model=model, timeout=deadline - time.monotonic()) if film.dicom else None


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise CovsegError(f"{file}: cannot be read ({error.strerror}); check the file") from error


def _write(target: str, content: bytes) -> str:
    if not create_bytes(target, content):
        raise CovsegError(f"{target}: was created by another program meanwhile, and is unchanged; choose another --out")
    return target

"""Many films through a service, several at a time: what `covseg-ray client` does between its options and its table."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from covseg_ray.cli.progress import ClientProgress
from covseg_ray.errors import CovsegError, StorageError, UsageError
from covseg_ray.radiograph.film import Rejected
from covseg_ray.service.client import Client, Film
from covseg_ray.storage.filesystem import create_bytes, exists, join

# Each kind has a folder of its own: a film named like another's overlay cannot meet it.
KINDS = {"masks": "{}.png", "overlays": "overlays/{}.png", "dicom-seg": "dicom-seg/{}.dcm"}
FIELDS = (
    *("height", "width", "frontal", "infection_fraction", "lung_fraction", "severity", "dicom"),
    *("input_sha256", "preprocess_version", "model", "model_id"),
)
FAILURES_IN_A_ROW = 3

Row = dict[str, Any]
Work = Callable[[Path, str], Row]


@dataclass(frozen=True)
class Job:
    """``files`` to be outlined by ``model``, the results of the ``kinds`` going to ``out``."""

    files: Sequence[Path]
    out: str | None
    kinds: tuple[str, ...]
    model: str | None
    concurrency: int
    timeout: float

    def check(self) -> None:
        """Raise UsageError where a file is missing, or a result there already: it may be a film of somebody else."""
        for file in self.files:
            if not file.is_file():
                raise UsageError(f"{file}: no file of that name; give PNG, JPEG, TIFF or DICOM files")
        for name in self.names() if self.out else ():
            for kind in self.kinds:
                if exists(self.target(kind, name)):
                    raise UsageError(f"{self.target(kind, name)}: is there already; choose another --out, or delete it")

    def names(self) -> list[str]:
        """A name for each file's results: its own without the ending, and a number where an earlier one has that."""
        taken: set[str] = set()
        count: Counter[str] = Counter()
        return [_free(file.stem, taken, count) for file in self.files]

    def target(self, kind: str, name: str) -> str:
        return join(self.out or "", KINDS[kind].format(name))


def _free(stem: str, taken: set[str], count: Counter[str]) -> str:
    """Some filesystems take A.png and a.png for one: so does this."""
    name = stem
    while name.casefold() in taken:
        count[stem] += 1
        name = f"{stem}-{count[stem] + 1}"
    taken.add(name.casefold())
    return name


def run(service: Client, job: Job, progress: ClientProgress) -> tuple[list[Row], StorageError | None]:
    """A row for each of the job's files, in order, and the error that stopped the run, where one did.

    A film that fails does not hold up the others. But where as many in a row get no answer, or cannot be written, as
    are under way at a time, and at least FAILURES_IN_A_ROW, the service is gone or the disk full: the rest is not
    sent. Raises UsageError where the service cannot do what is asked of it.
    """
    rows: list[Row] = [{"file": str(file), "status": "unsent"} for file in job.files]
    waiting = deque(enumerate(zip(job.files, job.names(), strict=True)))
    most, in_a_row, stopped = max(FAILURES_IN_A_ROW, job.concurrency), 0, None
    for index, result in _results(waiting, lambda file, name: _outline(service, job, file, name), job.concurrency):
        if isinstance(result, UsageError):
            raise result
        rows[index] |= {"status": "failed", "detail": str(result)} if isinstance(result, CovsegError) else result
        progress.update(rows[index])
        in_a_row = in_a_row + 1 if isinstance(result, StorageError) else 0
        if isinstance(result, StorageError) and in_a_row >= most and waiting:
            stopped = result
            waiting.clear()
    return rows, stopped


def _results(
    waiting: deque[tuple[int, tuple[Path, str]]], work: Work, threads: int
) -> Iterator[tuple[int, Row | CovsegError]]:
    """What ``work`` makes of all that is ``waiting``, as it comes.

    In daemon threads: an executor's are waited for at the end, and Ctrl-C would take as long as the slowest film.
    """
    done: SimpleQueue[tuple[int, Row | CovsegError] | None] = SimpleQueue()

    def each() -> None:
        try:
            while waiting:
                index, film = waiting.popleft()
                try:
                    done.put((index, work(*film)))
                except CovsegError as error:
                    done.put((index, error))
        except IndexError:  # another thread was faster
            pass
        finally:
            done.put(None)

    running = min(threads, len(waiting))
    for _ in range(running):
        threading.Thread(target=each, daemon=True).start()
    while running:
        found = done.get()
        if found is None:
            running -= 1
        else:
            yield found


def _outline(service: Client, job: Job, file: Path, name: str) -> Row:
    """The row of one film, its results written. What the service cannot make of a good film is told in ``detail``."""
    ends = time.monotonic() + job.timeout
    data = _read(file)
    film = service.segment(data, model=job.model, timeout=job.timeout)
    if isinstance(film, Rejected):
        return {"status": "rejected", "reason": film.reason, "detail": film.detail}
    written, missing = [], []
    for kind in job.kinds:
        content = _content(service, film, kind, data, job.model, ends)
        if isinstance(content, Rejected):
            missing.append(f"no {kind}: {content.detail}")
        elif content is not None:
            written.append(_written(job.target(kind, name), content))
    measured = {field: getattr(film, field) for field in FIELDS}
    return {"status": "ok", **measured, "written": written, "detail": "; ".join(missing) or None}


def _content(
    service: Client, film: Film, kind: str, data: bytes, model: str | None, ends: float
) -> bytes | Rejected | None:
    """A result's bytes; None of a SEG for a film that is no DICOM file."""
    if kind == "masks":
        return film.mask
    if kind == "overlays":
        return service.overlay(data, model=model, timeout=ends - time.monotonic())
    return service.seg(data, model=model, timeout=ends - time.monotonic()) if film.dicom else None


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise CovsegError(f"{file}: cannot be read ({error.strerror}); check the file") from error


def _written(target: str, content: bytes) -> str:
    if not create_bytes(target, content):
        raise CovsegError(f"{target}: has come to be there meanwhile, and was left as it is; choose another --out")
    return target

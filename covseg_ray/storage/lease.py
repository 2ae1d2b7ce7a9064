"""A lease on an output: one run at a time writes there, and a run that died does not keep it.

Leases are files in ``OUT/.lease`` with increasing numbers; the highest is valid. The file of the next number is created
only if it is not there, so that one of several runs gets it. Its holder rewrites it every few seconds. The next lease
may be taken once this one was released, once its process is gone from this machine, or, if held from elsewhere, once it
has not changed for STALE_SECONDS: clocks of two machines are never compared.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from threading import Event, Thread

from covseg_ray.errors import BusyError, StorageError
from covseg_ray.storage.filesystem import create_bytes, delete, join, list_files, read_bytes, write_bytes

FOLDER = ".lease"
BEAT_SECONDS = 5.0
STALE_SECONDS = 60.0
POLL_SECONDS = 1.0


@dataclass(frozen=True)
class Holder:
    """A process that holds a lease, and its last heartbeat; ``place`` is a machine since its last boot."""

    host: str
    place: str
    pid: int
    started: str
    beat: str = ""
    free: bool = False


class Lease:
    """The lease that ``hold`` yields, renewed by a thread until it ends."""

    def __init__(self, output: str, number: int, holder: Holder) -> None:
        self._output, self._number, self._holder = output, number, holder
        self._lost, self._stop = Event(), Event()
        self._thread = Thread(target=self._beat, daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raise BusyError when another run has taken the output over."""
        if self._lost.is_set():
            raise BusyError(
                f"{self._output}: another run took it over while storage was out of reach from here for "
                f"{STALE_SECONDS:.0f} s; let that one end"
            )

    def end(self) -> None:
        self._stop.set()
        self._thread.join()
        if not self._lost.is_set():
            try:
                self._write(replace(self._holder, free=True))
            except StorageError:  # a full disk still deletes; out of reach, the lease is stale in a while
                with suppress(StorageError):
                    delete(_path(self._output, self._number))

    def _beat(self) -> None:
        while not self._stop.wait(BEAT_SECONDS):
            try:
                if _numbers(self._output)[-1:] != [self._number]:
                    self._lost.set()
                    return
                self._write(replace(self._holder, beat=secrets.token_hex(4)))
            except StorageError:  # storage that is down for a while is no reason to end; a follower is seen later
                continue

    def _write(self, holder: Holder) -> None:
        write_bytes(_path(self._output, self._number), _document(holder))


@contextmanager
def hold(output: str) -> Iterator[Lease]:
    """Hold ``output`` while the block runs. Raises BusyError where another run holds it."""
    lease = _take(output)
    try:
        yield lease
    finally:
        lease.end()


def _take(output: str) -> Lease:
    numbers = _numbers(output)
    number = numbers[-1] if numbers else 0
    if number:
        _await_end(output, number)
    holder = Holder(socket.gethostname(), _place(), os.getpid(), _started(os.getpid()), secrets.token_hex(4))
    created = create_bytes(_path(output, number + 1), _document(holder))
    if not created and _read(output, number + 1) != holder:  # the answer to ours may have been lost on its way
        raise BusyError(
            f"{output}: another run began there at this moment; wait until it ends, or choose another output"
        )
    for old in numbers:
        delete(_path(output, old))
    return Lease(output, number + 1, holder)


def _await_end(output: str, number: int) -> None:
    """Wait until lease ``number`` has expired; raise BusyError as soon as its holder is seen to be alive."""
    first = _read(output, number)
    if first is None or first.free:
        return
    if first.place == _place():
        if _runs(first.pid) and _started(first.pid) == first.started:
            raise _busy(output, first)
        return
    until = time.monotonic() + STALE_SECONDS
    while time.monotonic() < until:
        time.sleep(POLL_SECONDS)
        now = _read(output, number)
        if now is None or now.beat != first.beat:
            raise _busy(output, first)


def _busy(output: str, holder: Holder) -> BusyError:
    return BusyError(
        f"{output}: another run holds it (process {holder.pid} on {holder.host}); "
        "wait until it ends, or choose another output"
    )


def _place() -> str:
    """This machine since its last boot, and the PID namespace of this process."""
    boot, space = Path("/proc/sys/kernel/random/boot_id"), Path("/proc/self/ns/pid")
    return f"{boot.read_text().strip()} {space.readlink()}" if boot.exists() else socket.gethostname()


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _started(pid: int) -> str:
    """When a process started, in clock ticks since the boot; empty where /proc does not say."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[19]
    except (FileNotFoundError, ProcessLookupError):
        return ""


def _numbers(output: str) -> list[int]:
    names = (name.removesuffix(".json") for name in list_files(join(output, FOLDER)))
    return sorted(int(name) for name in names if name.isdigit())


def _read(output: str, number: int) -> Holder | None:
    try:
        return Holder(**json.loads(read_bytes(_path(output, number))))
    except StorageError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            return None
        raise


def _document(holder: Holder) -> bytes:
    return json.dumps(asdict(holder)).encode()


def _path(output: str, number: int) -> str:
    return join(output, FOLDER, f"{number:06d}.json")

"""Decode films in a child process, so that one that crashes or hangs a codec or fills the memory harms nothing else."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time

from covseg_ray.errors import CovsegError
from covseg_ray.radiograph.decode import LIMITS, decode
from covseg_ray.radiograph.decoder_channel import receive, receive_answer, receive_film, send_answer, send_film
from covseg_ray.radiograph.film import Limits, Radiograph, RefusedError, Rejected, check_bytes

SECONDS = 30.0
MEMORY_BYTES = 4 * 2**30
_TRIES = 2
_GRACE_SECONDS = 1.0
_POLL_SECONDS = 2.0
_READY = b"ready"
# The parent's module search path, whatever the working directory is.
_START = (
    "import sys; sys.path[:] = sys.argv[2:];from covseg_ray.radiograph.decoder_process import serve; serve(sys.argv[1])"
)


class DecodingChild:
    """Decodes films in one child process, started with the first film and kept. Use it in a ``with`` block.

    A film may take `seconds`, the start of the child included, and the child `memory_bytes` of address space. When the
    child is lost, a new one tries the film again; a film that loses both is ``decoder-crashed`` or ``decoder-hung``.
    Threads may share it: one film is decoded at a time.
    """

    def __init__(self, limits: Limits = LIMITS, seconds: float = SECONDS, memory_bytes: int = MEMORY_BYTES) -> None:
        self._limits, self._seconds, self._memory_bytes = limits, seconds, memory_bytes
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: socket.socket | None = None
        self._has_started = False

    def __enter__(self) -> DecodingChild:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @property
    def pid(self) -> int | None:
        """The child's process id while there is one."""
        return self._process.pid if self._process else None

    def decode(self, data: bytes) -> Radiograph | Rejected:
        """`covseg_ray.radiograph.decode.decode` in the child.

        Raises:
            CovsegError: no child has ever started: the machine is at fault, not the film.
        """
        try:
            check_bytes(data, self._limits)
        except RefusedError as refusal:
            return refusal.rejected
        with self._lock:
            for _ in range(_TRIES):
                try:
                    return self._decode_once(data)
                except RefusedError as lost:
                    rejected = lost.rejected
        if not self._has_started:
            raise CovsegError(f"films cannot be decoded: {rejected.detail}; check the limits of this shell (ulimit -a)")
        return rejected

    def close(self) -> None:
        """End the child; a later film starts a new one."""
        with self._lock:
            if self._channel and self._process:
                self._channel.close()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._process.wait(_GRACE_SECONDS)
            self._stop()

    def _decode_once(self, data: bytes) -> Radiograph | Rejected:
        deadline = time.monotonic() + self._seconds
        with contextlib.ExitStack() as on_failure:  # or the next film would get this one's answer
            on_failure.callback(self._stop)
            try:
                channel = self._channel or self._start(deadline)
                send_film(channel, data, deadline)
                answer = receive_answer(channel, self._limits, deadline)
            except TimeoutError:
                raise RefusedError("decoder-hung", f"no answer within {self._seconds:g} seconds") from None
            except (OSError, ValueError, LookupError, TypeError):  # the connection broke, or the answer is malformed
                raise RefusedError("decoder-crashed", f"the decoding process ended ({self._stop()})") from None
            on_failure.pop_all()
            return answer

    def _start(self, deadline: float) -> socket.socket:
        self._channel, child_end = socket.socketpair()
        with child_end:
            self._process = _start_child(child_end, self._limits, self._seconds, self._memory_bytes)
        receive(self._channel, len(_READY), deadline)
        self._has_started = True
        return self._channel

    def _stop(self) -> str:
        """End the child and say how it ended."""
        if self._channel:
            self._channel.close()
        ended = "before it began"
        if self._process:
            with contextlib.suppress(subprocess.TimeoutExpired):  # a crash may be under way: its signal is the cause
                self._process.wait(0.1)
            self._process.kill()
            code = self._process.wait()
            ended = f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
        self._channel = self._process = None
        return ended


def _start_child(channel: socket.socket, limits: Limits, seconds: float, memory_bytes: int) -> subprocess.Popen[bytes]:
    settings = {
        "channel": channel.fileno(),
        "parent": os.getpid(),
        "seconds": seconds,
        "memory_bytes": memory_bytes,
        "limits": [limits.max_bytes, limits.max_pixels],
    }
    return subprocess.Popen(
        [sys.executable, "-c", _START, json.dumps(settings), *sys.path],
        # Each thread of OpenBLAS takes address space, which a machine of many cores would run out of.
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        pass_fds=[channel.fileno()],
        start_new_session=True,  # out of reach of the terminal's Ctrl-C from its first moment
    )


def serve(argument: str) -> None:
    """The child's loop: decode one film after the other until the parent is gone."""
    settings = json.loads(argument)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a dump would hold the patient's film
    with contextlib.suppress(ValueError):  # a lower limit is in force, or the system has none
        resource.setrlimit(resource.RLIMIT_AS, (settings["memory_bytes"],) * 2)
    limits = Limits(*settings["limits"])
    with socket.socket(fileno=settings["channel"]) as channel, contextlib.suppress(ConnectionError):
        channel.sendall(_READY)
        while _wait_for_film(channel, settings["parent"]):
            # The kernel ends a codec in an endless loop even when the parent is gone.
            signal.setitimer(signal.ITIMER_REAL, settings["seconds"] + _GRACE_SECONDS)
            send_answer(channel, decode(receive_film(channel), limits))
            signal.setitimer(signal.ITIMER_REAL, 0)


def _wait_for_film(channel: socket.socket, parent: int) -> bool:
    """Wait for a film, False once the parent is gone: the socket stays open while a process that it forked lives on."""
    channel.settimeout(_POLL_SECONDS)
    while os.getppid() == parent:
        with contextlib.suppress(TimeoutError):
            return bool(channel.recv(1, socket.MSG_PEEK))
    return False

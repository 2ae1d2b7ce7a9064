"""Films are decoded in a child process: one that crashes its decoder, hangs it or fills the memory ends there."""

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
from covseg_ray.radiograph.decode import decode
from covseg_ray.radiograph.decoder_channel import receive, receive_answer, receive_film, send_answer, send_film
from covseg_ray.radiograph.film import Limits, Radiograph, RefusedError, Rejected, check_bytes

LIMITS = Limits()
SECONDS = 30.0
MEMORY_BYTES = 4 * 2**30
_TRIES = 2
_GRACE_SECONDS = 1.0
_POLL_SECONDS = 2.0
_READY = b"ready"
# The child finds its modules where its parent does, whatever the working directory is.
_START = (
    "import sys; sys.path[:] = sys.argv[2:];from covseg_ray.radiograph.decoder_process import serve; serve(sys.argv[1])"
)


class _LostError(Exception):
    """The child is of no more use; carries what to say of the film that it had."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.rejected = Rejected(reason, detail)


class DecodingChild:
    """Decodes films in one child process, started with the first film and kept. Use it in a ``with`` block.

    A film has `seconds`, its start-up included, and the child `memory_bytes` of address space. Where the child is lost
    a new one tries the film once more; a film that loses both is ``decoder-crashed`` or ``decoder-hung``. Several
    threads may share it; they take turns.
    """

    def __init__(self, limits: Limits = LIMITS, seconds: float = SECONDS, memory_bytes: int = MEMORY_BYTES) -> None:
        self._limits, self._seconds, self._memory_bytes = limits, seconds, memory_bytes
        self._turn = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: socket.socket | None = None
        self._came_up = False

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
            CovsegError: no child ever came up, so that it is not the film's fault.
        """
        try:
            check_bytes(data, self._limits)
        except RefusedError as refusal:
            return refusal.rejected
        with self._turn:
            for _ in range(_TRIES):
                try:
                    return self._ask(data)
                except _LostError as lost:
                    rejected = lost.rejected
        if not self._came_up:
            raise CovsegError(f"films cannot be decoded: {rejected.detail}; check the limits of this shell (ulimit -a)")
        return rejected

    def close(self) -> None:
        """Let the child go; a later film starts a new one."""
        with self._turn:
            if self._channel and self._process:
                self._channel.close()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._process.wait(_GRACE_SECONDS)
            self._stop()

    def _ask(self, data: bytes) -> Radiograph | Rejected:
        deadline = time.monotonic() + self._seconds
        with contextlib.ExitStack() as unless_answered:  # or the next film would get this one's answer
            unless_answered.callback(self._stop)
            try:
                channel = self._channel or self._start(deadline)
                send_film(channel, data, deadline)
                answer = receive_answer(channel, self._limits, deadline)
            except TimeoutError:
                raise _LostError("decoder-hung", f"no answer within {self._seconds:g} seconds") from None
            except (OSError, ValueError, LookupError, TypeError):  # the connection broke, or the answer is none
                raise _LostError("decoder-crashed", f"the decoding process ended ({self._stop()})") from None
            unless_answered.pop_all()
            return answer

    def _start(self, deadline: float) -> socket.socket:
        self._channel, theirs = socket.socketpair()
        with theirs:
            self._process = _start_child(theirs, self._limits, self._seconds, self._memory_bytes)
        receive(self._channel, len(_READY), deadline)
        self._came_up = True
        return self._channel

    def _stop(self) -> str:
        """End the child and say how it ended."""
        if self._channel:
            self._channel.close()
        ended = "before it began"
        if self._process:
            with contextlib.suppress(subprocess.TimeoutExpired):  # time for a crash that is under way to be told apart
                self._process.wait(0.1)
            self._process.kill()
            ended = _ending(self._process.wait())
        self._channel = self._process = None
        return ended


def _start_child(theirs: socket.socket, limits: Limits, seconds: float, memory_bytes: int) -> subprocess.Popen[bytes]:
    settings = {
        "channel": theirs.fileno(),
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
        pass_fds=[theirs.fileno()],
        start_new_session=True,  # out of reach of the terminal's Ctrl-C from its first moment
    )


def _ending(code: int) -> str:
    return f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"


def serve(argument: str) -> None:
    """The child's side: answers one film after the other until the parent is gone."""
    settings = json.loads(argument)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a dump would hold the patient's film
    with contextlib.suppress(ValueError):  # a lower limit is in force, or the system knows none
        resource.setrlimit(resource.RLIMIT_AS, (settings["memory_bytes"],) * 2)
    limits = Limits(*settings["limits"])
    with socket.socket(fileno=settings["channel"]) as channel, contextlib.suppress(ConnectionError):
        channel.sendall(_READY)
        while _film_comes(channel, settings["parent"]):
            # The kernel ends a codec that loops for ever even when no parent is left to do it.
            signal.setitimer(signal.ITIMER_REAL, settings["seconds"] + _GRACE_SECONDS)
            send_answer(channel, decode(receive_film(channel), limits))
            signal.setitimer(signal.ITIMER_REAL, 0)


def _film_comes(channel: socket.socket, parent: int) -> bool:
    """Wait for a film or the parent's end, which the socket does not tell where a process that it forked lives on."""
    channel.settimeout(_POLL_SECONDS)
    while os.getppid() == parent:
        with contextlib.suppress(TimeoutError):
            return bool(channel.recv(1, socket.MSG_PEEK))
    return False

"""An object in a process of its own, so that what is measured in it has its own allocator, threads and memory."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any

from covseg_ray.errors import CovsegError

Ask = Callable[..., Any]  # a method's name and its arguments to what it gives

STDOUT, STDERR = 1, 2


@contextmanager
def apart(make: Callable[..., object], *given: Any, variables: Mapping[str, str]) -> Iterator[Ask]:
    """``make(*given)`` in a new process with ``variables`` in its environment; the process ends with the block.

    What is asked of the object is a method's name and arguments. Raises the errors of ``covseg_ray.errors`` that it
    raised there, and a CovsegError where the process ended.
    """
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe()
    process = spawn.Process(target=_answer, args=(theirs, make, given), daemon=True)
    with _environment(variables):
        process.start()
    theirs.close()

    def ask(method: str, *arguments: Any) -> Any:
        try:
            ours.send((method, arguments))
            answer = ours.recv()
        except (EOFError, BrokenPipeError, ConnectionResetError):
            process.join(10)
            raise CovsegError(f"the process that measures ended with exit code {process.exitcode}") from None
        if isinstance(answer, CovsegError):
            raise answer
        return answer

    try:
        yield ask
    finally:
        ours.close()
        process.join(10)
        if process.is_alive():
            process.kill()
            process.join()


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _answer(pipe: Connection, make: Callable[..., object], given: tuple[Any, ...]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the command's, which then closes the pipe
    os.dup2(STDERR, STDOUT)  # a library may print; standard output is for the result alone
    made: object | None = None
    while True:
        try:
            method, arguments = pipe.recv()
        except EOFError:
            return
        try:
            made = made or make(*given)
            pipe.send(getattr(made, method)(*arguments))
        except CovsegError as error:
            pipe.send(error)

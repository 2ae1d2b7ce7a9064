"""An object in a process of its own, so that what is measured in it has its own allocator, threads and memory."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any

from covseg_ray.errors import CovsegError

Call = Callable[..., Any]  # a method's name and its arguments to the method's result

STDOUT, STDERR = 1, 2
_object: Any = None  # of the process


@contextmanager
def in_process(make: Callable[..., object], *given: Any, variables: Mapping[str, str]) -> Iterator[Call]:
    """``make(*given)`` in a new process with ``variables`` in its environment; the process ends with the block.

    The object's methods are called by name. Raises what they raise, and CovsegError where the process died.
    """
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), _prepare) as pool:

        def call(method: str, *arguments: Any) -> Any:
            try:
                return pool.submit(_call, method, arguments).result()
            except BrokenProcessPool:
                raise CovsegError("the process that measures died; the system's log may say why") from None

        with _environment(variables):  # glibc reads some of them when a process starts
            pool.submit(_create, make, given).result()
        yield call


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(variables)
    try:
        yield
    finally:
        for name in variables.keys() - before.keys():
            del os.environ[name]
        os.environ.update(before)


def _prepare() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the command
    os.dup2(STDERR, STDOUT)  # a library may print; standard output is for the result alone


def _create(make: Callable[..., object], given: tuple[Any, ...]) -> None:
    global _object
    _object = make(*given)


def _call(method: str, arguments: tuple[Any, ...]) -> Any:
    return getattr(_object, method)(*arguments)

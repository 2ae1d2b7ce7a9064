"""Where a bench measures: a process with its own allocator, threads and memory, or actors on a Ray session's nodes."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from covseg_ray.engine.bench.rounds import machine
from covseg_ray.engine.session import alive_nodes, cores, counted
from covseg_ray.errors import CovsegError

Call = Callable[..., Any]  # a method's name and its arguments to the method's result
Calls = Callable[..., list[Any]]  # the same, to the result of each actor, in order
Options = Mapping[str, Any]  # of an actor

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


def session_machine(address: str | None) -> dict[str, str]:
    """Name, value: this machine's, or the cluster's size beside the versions that it must share with it."""
    if address is None:
        return machine()
    nodes, gpus = len(alive_nodes()), int(counted("GPU"))
    cluster = f"a Ray cluster of {nodes} node{'s' if nodes > 1 else ''}"
    size = {"processor": cluster, "cores": str(cpus(address)), "gpu": str(gpus or "none")}
    return {name: value for name, value in machine().items() if name in ("python", "torch", "ray")} | size


def cpus(address: str | None) -> int:
    """The cores of this machine, or the CPUs that the cluster counts."""
    return cores() if address is None else int(counted("CPU") or 1)


def per_device(device: str) -> list[Options]:
    """An actor for each GPU, which it has to itself, or for each node, where nothing is counted for it."""
    if device == "cuda":
        return [{"num_cpus": 0, "num_gpus": 1}] * int(counted("GPU"))
    places = (NodeAffinitySchedulingStrategy(node["NodeID"], soft=False) for node in alive_nodes())
    return [{"num_cpus": 0, "scheduling_strategy": place} for place in places]


@contextmanager
def actors(make: Callable[..., object], places: Sequence[Options], given: Sequence[Sequence[Any]]) -> Iterator[Calls]:
    """``make`` of what is given for each place, in an actor there; the actors end with the block.

    What is asked of them is a method's name and its arguments. Raises what the first that raised something did."""
    made = [ray.remote(make).options(**place).remote(*each) for place, each in zip(places, given, strict=True)]

    def call(method: str, *arguments: Any) -> list[Any]:
        return list(ray.get([getattr(each, method).remote(*arguments) for each in made]))

    try:
        yield call
    finally:
        for each in made:
            ray.kill(each)

"""Actors that measure on a Ray session's nodes: one on each, or one for each GPU; all at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from covseg_ray.engine.bench.rounds import machine
from covseg_ray.engine.session import alive_nodes, cores

Options = Mapping[str, Any]  # of an actor
Calls = Callable[..., list[Any]]  # a method's name and its arguments to the result of each actor, in order


def session_machine(address: str | None) -> dict[str, str]:
    """Name, value: this machine's, or the cluster's size beside the versions that it must share with it."""
    if address is None:
        return machine()
    nodes, gpus = len(alive_nodes()), int(ray.cluster_resources().get("GPU", 0))
    cluster = f"a Ray cluster of {nodes} node{'s' if nodes > 1 else ''}"
    size = {"processor": cluster, "cores": str(cpus(address)), "gpu": str(gpus or "none")}
    return {name: value for name, value in machine().items() if name in ("python", "torch", "ray")} | size


def cpus(address: str | None) -> int:
    """The cores of this machine, or the CPUs that the cluster counts."""
    return cores() if address is None else int(ray.cluster_resources().get("CPU", 1))


def per_device(device: str) -> list[Options]:
    """An actor for each GPU, which it has to itself, or for each node, where nothing is counted for it."""
    if device == "cuda":
        return [{"num_cpus": 0, "num_gpus": 1}] * int(ray.cluster_resources()["GPU"])
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

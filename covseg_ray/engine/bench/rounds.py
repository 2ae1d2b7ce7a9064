"""What all benches share: the machine by name, rounds taken in turn, and rates relative to one of them."""

from __future__ import annotations

import os
import platform
import statistics
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from covseg_ray.engine.session import cores
from covseg_ray.storage.filesystem import locate

GIB = 2**30

Say = Callable[[str], None]


@dataclass(frozen=True)
class Rate:
    """A rate per second, one value per round; without rounds it could not be measured, and ``note`` says why."""

    name: str
    rounds: tuple[float, ...]
    note: str = ""

    @property
    def median(self) -> float:
        return statistics.median(self.rounds)


@dataclass(frozen=True)
class Bench:
    """``rates`` in ``unit``, compared with ``against``; ``advice`` are recommendations, one line each."""

    what: str
    unit: str
    machine: Mapping[str, str]
    against: Rate
    rates: tuple[Rate, ...]
    advice: tuple[str, ...]

    def ratio(self, rate: Rate) -> float:
        return rate.median / self.against.median

    def document(self) -> dict[str, Any]:
        against = {"name": self.against.name, "median": self.against.median, "rounds": self.against.rounds}
        return {**asdict(self), "against": against, "rates": [self._entry(rate) for rate in self.rates]}

    def _entry(self, rate: Rate) -> dict[str, Any]:
        if not rate.rounds:
            return {"name": rate.name, "median": None, "rounds": [], "ratio": None, "note": rate.note}
        found = {"name": rate.name, "median": rate.median, "rounds": rate.rounds, "ratio": self.ratio(rate)}
        return {**found, "note": rate.note}


def machine() -> dict[str, str]:
    """The machine and versions that a figure belongs to, by name."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "processor": _processor(),
        "cores": str(cores()),
        "memory": f"{memory / GIB:.0f} GiB",
        "gpu": torch.cuda.get_device_name(0) if torch.cuda.is_available() else "none",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "ray": version("ray"),
    }


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def in_turn(rounds: int, measured: Mapping[str, Callable[[], float]], say: Say) -> dict[str, tuple[float, ...]]:
    """The result of each, once a round, in turn: a machine that is slow for a while slows all of them."""
    found: dict[str, list[float]] = {name: [] for name in measured}
    for number in range(1, rounds + 1):
        for name, measure in measured.items():
            found[name].append(measure())
            say(f"round {number} of {rounds}: {name} {found[name][-1]:,.1f} a second")
    return {name: tuple(rates) for name, rates in found.items()}


@contextmanager
def output_folder(out: str | None) -> Iterator[str]:
    """The full URI of ``out``, for workers with another current folder; without it, a temporary folder."""
    if out:
        yield locate(out).uri
        return
    with tempfile.TemporaryDirectory(prefix="covseg-ray-bench-") as folder:
        yield folder

"""Programs run in turn, round after round, and the JSON lines that say what came of it.

A line is a measurement (``what``, ``round`` and figures), a ratio over all rounds (``figure``), or a reason why a
program gave none (``what`` and ``cannot`` where it is not for this machine, ``failed`` where it broke).
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

Figures = dict[str, float]
Arm = Callable[[], Figures]
Found = TypeVar("Found")
LIMIT_SECONDS = 1800


class CannotError(Exception):
    """This program is not for this machine; the message says why."""


class FailedError(Exception):
    """A program broke; the message is its last line."""


@dataclass
class Measured:
    """Figures by program, one of each round that it ended in, and the programs that broke."""

    figures: dict[str, dict[int, Figures]] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)
    left_out: set[str] = field(default_factory=set)

    def attempt(self, what: str, arm: Callable[[], Found]) -> Found | None:
        """What it gives; nothing from then on if it cannot, or breaks."""
        if what in self.left_out:
            return None
        try:
            return arm()
        except (CannotError, FailedError) as error:
            self.left_out.add(what)
            if isinstance(error, FailedError):
                self.broken.append(what)
            tell({"what": what, "cannot" if isinstance(error, CannotError) else "failed": str(error)})
            return None

    def keep(self, what: str, number: int, found: Figures) -> None:
        self.figures.setdefault(what, {})[number] = found
        tell({"what": what, "round": number} | found)

    def median(self, what: str, measure: str) -> float:
        return statistics.median(found[measure] for found in self.figures[what].values())

    def best(self, names: list[str], measure: str) -> str | None:
        """The program of the largest median, of those that gave one."""
        return max(
            (name for name in names if name in self.figures), key=lambda n: self.median(n, measure), default=None
        )

    def ratio(self, over: str | None, under: str | None, measure: str, aim: float | None, title: str = "") -> None:
        """Tell the median of the rounds' ratios, and the lowest and highest; nothing where one of them gave none."""
        rounds = self.figures.get(over or "", {}).keys() & self.figures.get(under or "", {}).keys()
        found = [self.figures[over or ""][r][measure] / self.figures[under or ""][r][measure] for r in sorted(rounds)]
        if found:
            value = {"value": statistics.median(found), "lowest": min(found), "highest": max(found)}
            tell({"figure": title or f"{over} over {under}, {measure}"} | value | {"aim": aim, "rounds": len(found)})


def tell(line: Mapping[str, object]) -> None:
    print(json.dumps(line), flush=True)


def in_turn(arms: Mapping[str, Arm], rounds: int, measured: Measured | None = None) -> Measured:
    """Each program once a round, every other round in reverse order; one that gives no figures is left out."""
    measured = measured or Measured()
    for number in range(1, rounds + 1):
        for what in list(arms) if number % 2 else list(reversed(arms)):
            found = measured.attempt(what, arms[what])
            if found is not None:
                measured.keep(what, number, found)
    return measured


def run(words: list[str], environment: Mapping[str, str] | None = None, good: tuple[int, ...] = (0,)) -> str:
    """A program's standard output. Raises FailedError with the last line of its standard error."""
    try:
        done = subprocess.run(
            words, env=os.environ | (environment or {}), capture_output=True, text=True, timeout=LIMIT_SECONDS
        )
    except subprocess.TimeoutExpired as error:
        raise FailedError(f"{' '.join(words[:4])}: not done after {LIMIT_SECONDS} s") from error
    if done.returncode not in good:
        raise FailedError(f"exit {done.returncode}: {last_line(done.stderr)}")
    return done.stdout


def last_line(text: str) -> str:
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "no word")


def timed_run(words: list[str], environment: Mapping[str, str] | None = None) -> tuple[str, float]:
    """A program's standard output, and the seconds from its start to its end."""
    begin = time.perf_counter()
    return run(words, environment), time.perf_counter() - begin


def python(*words: object) -> list[str]:
    return [sys.executable, *map(str, words)]


def covseg(*words: object) -> list[str]:
    return python("-m", "covseg_ray", *words)


def settings(values: Mapping[str, object]) -> Iterator[str]:
    for key, value in values.items():
        yield from ("--set", f"{key}={value}")

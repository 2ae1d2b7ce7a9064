"""What a bench found: rates, each relative to the one that it is measured by."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


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

"""The result of a bench: rates and their ratio to a reference rate, as a table and as JSON."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rich.table import Table


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
        return {
            "what": self.what,
            "unit": self.unit,
            "machine": dict(self.machine),
            "against": {"name": self.against.name, "median": self.against.median, "rounds": self.against.rounds},
            "rates": [self._entry(rate) for rate in self.rates],
            "advice": list(self.advice),
        }

    def _entry(self, rate: Rate) -> dict[str, Any]:
        if not rate.rounds:
            return {"name": rate.name, "median": None, "rounds": [], "ratio": None, "note": rate.note}
        found = {"name": rate.name, "median": rate.median, "rounds": rate.rounds, "ratio": self.ratio(rate)}
        return {**found, "note": rate.note}


def table(bench: Bench) -> Table:
    """The rates as a table for a terminal."""
    shown = Table(box=None, pad_edge=False, header_style="bold")
    shown.add_column(bench.what)
    shown.add_column(bench.unit, justify="right")
    shown.add_column("lowest to highest", justify="right")
    shown.add_column(f"times {bench.against.name}", justify="right")
    shown.add_column("")
    for rate in (bench.against, *bench.rates):
        if rate.rounds:
            spread = f"{min(rate.rounds):,.1f} to {max(rate.rounds):,.1f}"
            shown.add_row(rate.name, f"{rate.median:,.1f}", spread, f"{bench.ratio(rate):.2f}", rate.note)
        else:
            shown.add_row(rate.name, "", "", "", rate.note)
    return shown

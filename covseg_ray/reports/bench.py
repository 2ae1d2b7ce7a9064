"""What a bench found: rates side by side, each over the one that it is measured by, as a table, JSON, a picture."""

from __future__ import annotations

import io
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rich.table import Table

from covseg_ray.reports.figures import DOTS_PER_INCH, LIGHT


@dataclass(frozen=True)
class Rate:
    """So much a second, once for each round; without rounds it could not be measured, and ``note`` says why."""

    name: str
    rounds: tuple[float, ...]
    note: str = ""

    @property
    def median(self) -> float:
        return statistics.median(self.rounds)


@dataclass(frozen=True)
class Bench:
    """``rates`` in ``unit``, measured by ``against``; ``advice`` says in words what follows for whoever runs this."""

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
    """The rates as a person reads them."""
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


def plot(bench: Bench) -> bytes:
    """Horizontal bars of the medians, a line from the slowest to the fastest round on each: PNG bytes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rates = [rate for rate in (bench.against, *bench.rates) if rate.rounds][::-1]
    figure = Figure(figsize=(7.0, 0.9 + 0.42 * len(rates)), dpi=DOTS_PER_INCH, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    medians = [rate.median for rate in rates]
    below = [rate.median - min(rate.rounds) for rate in rates]
    above = [max(rate.rounds) - rate.median for rate in rates]
    colours = [LIGHT.lines[1] if rate is bench.against else LIGHT.lines[0] for rate in rates]
    axes.barh([rate.name for rate in rates], medians, xerr=[below, above], color=colours, ecolor=LIGHT.ink)
    for place, rate in enumerate(rates):
        axes.annotate(f" {rate.median:,.1f}", (max(rate.rounds), place), va="center", color=LIGHT.ink)
    axes.margins(x=0.15)
    axes.set_xlabel(bench.unit)
    axes.set_title(f"{bench.what}: {bench.machine['processor']}, {bench.machine['cores']} cores", fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()

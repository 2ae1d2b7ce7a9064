"""A bench's document and table against medians and ratios by hand."""

from __future__ import annotations

import io

from rich.console import Console

from covseg_ray.cli.bench import rates_table
from covseg_ray.engine.bench.rounds import Bench, Rate

MACHINE = {"processor": "a chip", "cores": "2"}
BENCH = Bench(
    "predict",
    "films/s",
    MACHINE,
    Rate("a plain script", (2.0, 9.0, 4.0)),
    (Rate("quick", (40.0, 30.0, 50.0), "a note"), Rate("absent", (), "not here: no such package")),
    ("fastest here: quick",),
)


def test_the_document_has_medians_and_their_ratio():
    document = BENCH.document()
    assert document["against"] == {"name": "a plain script", "median": 4.0, "rounds": (2.0, 9.0, 4.0)}
    quick, absent = document["rates"]
    assert quick == {"name": "quick", "median": 40.0, "rounds": (40.0, 30.0, 50.0), "ratio": 10.0, "note": "a note"}
    assert (absent["median"], absent["ratio"], absent["note"]) == (None, None, "not here: no such package")


def test_the_table_says_the_same():
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(rates_table(BENCH))
    lines = [line.split() for line in console.export_text().splitlines()]
    assert lines[1] == ["a", "plain", "script", "4.0", "2.0", "to", "9.0", "1.00"]
    assert lines[2] == ["quick", "40.0", "30.0", "to", "50.0", "10.00", "a", "note"]
    assert lines[3] == ["absent", "not", "here:", "no", "such", "package"]

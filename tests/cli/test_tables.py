"""Tables in a file and on a terminal."""

from __future__ import annotations

import pytest
from rich.text import Text
from terminals import shown_on_a_terminal

from covseg_ray.cli.tables import show, table

LONG = "[red]:smile: " + "word " * 60


def test_in_a_pipe_a_row_is_one_line_without_a_space_at_its_end(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [["a", "1", LONG], [Text("longer", style="red"), "1,000", ""]]
    show("title", table(["name", "count", "note"], rows, right=("count",)), "", "end")
    assert capsys.readouterr().out.splitlines() == [
        "title",
        "name    count  note",
        f"a           1  {LONG.rstrip()}",
        "longer  1,000",
        "",
        "end",
    ]


def test_a_table_without_a_header_and_on_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    show(table(["a", "b"], [["x", "y"]], show_header=False), to_stderr=True)
    assert capsys.readouterr() == ("", "x  y\n")


def test_on_a_terminal_a_long_cell_is_folded() -> None:
    shown = shown_on_a_terminal(f"""
from covseg_ray.cli.tables import show, table
show(table(["name", "note"], [["a", {"x" * 150!r}]]), to_stderr=True)
""")
    lines = shown.replace("\r", "").splitlines()
    assert [line.count("x") for line in lines if "x" in line] == [74, 74, 2]

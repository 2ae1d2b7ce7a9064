"""Rounds and the page: turns, what is left out, ratios, and that a broken program and a missed aim are said."""

from __future__ import annotations

import json
from datetime import datetime, timezone

import pytest
from report_page import Machine, Part, page
from rounds import CannotError, FailedError, Figures, in_turn, python, run

MACHINE = Machine("A processor", 2, 24.0, 0.5, {"Python": "3.11"}, datetime(2026, 1, 1, tzinfo=timezone.utc))


def printed(capsys: pytest.CaptureFixture[str]) -> list[dict[str, object]]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_every_other_round_is_in_reverse_and_a_ratio_is_the_median_of_rounds(
    capsys: pytest.CaptureFixture[str],
) -> None:
    speeds = {"ours": iter([2.0, 9.0, 4.0]), "theirs": iter([1.0, 3.0, 1.0])}
    order: list[str] = []

    def measure(what: str) -> Figures:
        order.append(what)
        return {"speed": next(speeds[what])}

    measured = in_turn({"ours": lambda: measure("ours"), "theirs": lambda: measure("theirs")}, 3)
    measured.ratio("ours", "theirs", "speed", 2.5)
    measured.ratio("ours", "nobody", "speed", None)
    assert order == ["ours", "theirs", "theirs", "ours", "ours", "theirs"]
    assert measured.best(["theirs", "ours", "nobody"], "speed") == "ours"
    ratios = [line for line in printed(capsys) if "figure" in line]
    spread = {"value": 3.0, "lowest": 2.0, "highest": 4.0, "aim": 2.5, "rounds": 3}
    assert ratios == [{"figure": "ours over theirs, speed"} | spread]


@pytest.mark.parametrize(("error", "key", "broken"), [(CannotError, "cannot", []), (FailedError, "failed", ["new"])])
def test_what_gives_nothing_is_left_out_and_said_once(
    error: type[Exception], key: str, broken: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    tried: list[int] = []

    def nothing() -> Figures:
        tried.append(1)
        raise error("a reason")

    measured = in_turn({"new": nothing, "old": lambda: {"speed": 1.0}}, 2)
    assert len(tried) == 1
    assert measured.broken == broken
    lines = printed(capsys)
    assert {"what": "new", key: "a reason"} in lines
    assert [line["round"] for line in lines if line["what"] == "old"] == [1, 2]


def test_a_program_that_breaks_gives_its_last_line() -> None:
    assert run(python("-c", "print(7)")) == "7\n"
    with pytest.raises(FailedError, match=r"^exit 1: SystemExit_like: no films$"):
        run(python("-c", "import sys; print('x\\nSystemExit_like: no films\\n', file=sys.stderr); sys.exit(1)"))


def test_the_page_says_what_was_reached_what_was_not_and_what_broke() -> None:
    lines = [
        {"what": "ours", "round": 1, "speed": 1.0},
        {"what": "ours", "round": 2, "speed": 3.0},
        {"what": "theirs", "cannot": "not installed"},
        {"what": "another", "failed": "exit 1: no films"},
        {"figure": "ours over theirs", "value": 0.5, "lowest": 0.4, "highest": 0.6, "aim": 1.0, "rounds": 2},
        {"figure": "growth", "value": 1.05, "aim": 1.1, "at_most": True, "rounds": 1},
    ]
    part = Part("Speed", "Films/s.", ["benchmarks/x.py", "--films", "/somewhere/films"], lines, 1, 2.0)
    text = page(MACHINE, part)
    command = "`python benchmarks/x.py --films FILMS`, 2 min; 01 January 2026, 00:00 UTC; "
    assert f"{command}A processor, 2 cores, 24 GiB; Python 3.11. " in text
    assert "/somewhere" not in text
    assert "| ours over theirs | 0.500 | 0.400 to 0.600 | at least 1: not reached | 2 |" in text
    assert "| growth | 1.05 |  | at most 1.10: reached | 1 |" in text
    assert "| ours | 2 | 2 |" in text
    assert "- theirs did not run: not installed" in text
    assert "- **broke**: another: exit 1: no films" in text
    assert part.failures() == ["another: exit 1: no films"]


def test_a_benchmark_that_ends_without_a_word_is_a_failure_too() -> None:
    assert Part("Speed", "", [], [], 1, 0.0).failures() == ["ended with 1"]
    assert Part("Speed", "", [], [], 0, 0.0).failures() == []

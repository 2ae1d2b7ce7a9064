from __future__ import annotations

import io
import re
import subprocess
import sys

import numpy as np
import pytest
from terminals import shown_on_a_terminal

from covseg_ray.cli.progress import CountProgress, SegmentProgress, rejected_words

SHOW = """
import time
from covseg_ray.cli.progress import SegmentProgress
with SegmentProgress() as progress:
    progress.listed(2000)
    time.sleep(0.5)
    progress.begin(2000, 500, {"corrupt": 8})
    time.sleep(0.1)
    progress.update(1480, {"corrupt": 8, "empty": 12}, 4)
"""


class Clock:
    """Seconds that pass only when they are set."""

    def __init__(self, now: float = 1e6) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def lines(out: io.StringIO) -> list[str]:
    return out.getvalue().splitlines()


def test_a_run_of_two_minutes_writes_a_line_every_half_minute_and_one_at_its_end() -> None:
    out, clock = io.StringIO(), Clock()
    with SegmentProgress(file=out, clock=clock) as progress:
        progress.begin(1000, 0, {})
        for second in range(1, 121):
            clock.now += 1
            progress.update(5 * second, {"empty": second // 40}, 3)
    assert lines(out) == [
        "150/1,000 inputs · 5.0 films/s · 0:02:50 left · 3 actors",
        "301/1,000 inputs · 5.0 films/s · 0:02:19 left · 3 actors · 1 rejected (empty 1)",
        "452/1,000 inputs · 5.0 films/s · 0:01:49 left · 3 actors · 2 rejected (empty 2)",
        "603/1,000 inputs · 5.0 films/s · 0:01:19 left · 3 actors · 3 rejected (empty 3)",
        "603/1,000 inputs · 5.0 films/s · in 0:02:00 · 3 rejected (empty 3)",
    ]


@pytest.mark.parametrize("seed", range(5))
def test_speed_and_time_left_are_those_of_the_last_minute(seed: int) -> None:
    rng, out, clock = np.random.default_rng(seed), io.StringIO(), Clock()
    total, done = 100_000, 0
    history = [(clock.now, 0)]
    shown = 0
    with SegmentProgress(file=out, clock=clock) as progress:
        progress.begin(total, 0, {})
        for _ in range(300):
            clock.now += rng.exponential(4.0)
            done += int(rng.integers(0, 60))
            progress.update(done, {}, 1)
            history.append((clock.now, done))
            if len(lines(out)) == shown:
                continue
            shown += 1
            begin = max((each for each in history if each[0] <= clock.now - 60), default=history[0])
            rate = (done - begin[1]) / (clock.now - begin[0])
            line = re.fullmatch(
                r"([\d,]+)/100,000 inputs · ([\d.]+) films/s · (\d+):(\d\d):(\d\d) left · 1 actor", lines(out)[-1]
            )
            assert line is not None
            assert int(line[1].replace(",", "")) == done
            assert float(line[2]) == pytest.approx(rate, abs=0.0501)
            assert 3600 * int(line[3]) + 60 * int(line[4]) + int(line[5]) == pytest.approx(
                (total - done) / rate, abs=0.6
            )
    assert shown > 10


def test_lines_are_never_less_than_half_a_minute_apart() -> None:
    rng, out, clock = np.random.default_rng(1), io.StringIO(), Clock()
    written: list[float] = []
    with SegmentProgress(file=out, clock=clock) as progress:
        progress.begin(1000, 0, {})
        written.append(clock.now)
        for done in range(1000):
            clock.now += rng.exponential(1.0)
            before = len(lines(out))
            progress.update(done, {}, 1)
            if len(lines(out)) > before:
                written.append(clock.now)
    assert min(np.diff(written)) >= 30
    assert max(np.diff(written)) < 45  # an update came at least every 15 seconds
    assert len(lines(out)) == len(written)  # the last one came at the end


def test_what_earlier_runs_did_counts_as_done_but_not_as_speed() -> None:
    out, clock = io.StringIO(), Clock()
    with SegmentProgress(file=out, clock=clock) as progress:
        progress.begin(1000, 400, {"corrupt": 10})
        clock.now += 50
        progress.update(480, {"corrupt": 20}, 2)
    assert lines(out) == [
        "500/1,000 inputs · 2.0 films/s · 0:04:10 left · 2 actors · 20 rejected (corrupt 20)",
        "500/1,000 inputs · 2.0 films/s · in 0:00:50 · 20 rejected (corrupt 20)",
    ]


def test_a_run_that_stands_still_has_no_time_left_to_tell() -> None:
    out, clock = io.StringIO(), Clock()
    with SegmentProgress(file=out, clock=clock) as progress:
        progress.begin(1000, 0, {})
        progress.update(50, {}, 1)
        clock.now += 100
        progress.update(50, {}, 1)
        clock.now += 100
        progress.update(50, {}, 1)
    assert lines(out)[1] == "50/1,000 inputs · 0.0 films/s · - left · 1 actor"


def test_listing_a_large_archive_is_told_twice_a_minute() -> None:
    out, clock = io.StringIO(), Clock()
    with SegmentProgress(file=out, clock=clock) as progress:
        for thousands in range(1, 15):
            clock.now += 5
            progress.listed(1000 * thousands)
        progress.begin(14_000, 0, {})
        clock.now += 10
        progress.update(100, {}, 1)
    assert lines(out) == [
        "6,000 inputs listed",
        "12,000 inputs listed",
        "100/14,000 inputs · 10.0 films/s · in 0:00:10",
    ]


def test_a_run_with_nothing_left_to_do_says_so() -> None:
    out, clock = io.StringIO(), Clock()
    with SegmentProgress(file=out, clock=clock) as progress:
        progress.begin(20, 20, {"empty": 3, "corrupt": 0})
    assert lines(out) == ["20/20 inputs · - films/s · in 0:00:00 · 3 rejected (empty 3)"]


def test_a_run_that_fails_tells_how_far_it_came() -> None:
    out, clock = io.StringIO(), Clock()

    def fail() -> None:
        with SegmentProgress(file=out, clock=clock) as progress:
            progress.begin(20, 0, {})
            clock.now += 10
            progress.update(7, {}, 1)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert lines(out) == ["7/20 inputs · 0.7 films/s · in 0:00:10"]


def test_the_last_line_tells_the_speed_of_the_whole_run() -> None:
    out, clock = io.StringIO(), Clock()
    with SegmentProgress(file=out, clock=clock) as progress:
        progress.begin(1000, 0, {})
        for done in (700, 800):
            clock.now += 100
            progress.update(done, {}, 1)
    assert [re.findall("[\\d.]+ films/s", line) for line in lines(out)] == [
        ["7.0 films/s"],
        ["1.0 films/s"],
        ["4.0 films/s"],
    ]


def test_a_run_that_never_begins_writes_nothing() -> None:
    out = io.StringIO()
    with SegmentProgress(file=out):
        pass
    assert out.getvalue() == ""


def test_long_times_are_told_in_hours() -> None:
    out, clock = io.StringIO(), Clock()
    with SegmentProgress(file=out, clock=clock) as progress:
        progress.begin(1_000_000, 0, {})
        clock.now += 100
        progress.update(100, {}, 1)
    assert "1.0 films/s · 277:45:00 left" in lines(out)[0]


@pytest.mark.parametrize(
    ("reasons", "words"),
    [
        ({}, ""),
        ({"empty": 0}, ""),
        ({"empty": 4, "corrupt": 8}, "12 rejected (corrupt 8, empty 4)"),
        ({"truncated": 2, "corrupt": 2, "empty": 1_000}, "1,004 rejected (empty 1,000, corrupt 2, truncated 2)"),
    ],
)
def test_rejects_are_told_by_reason_the_commonest_first(reasons: dict[str, int], words: str) -> None:
    assert rejected_words(reasons) == words


def test_a_reason_is_printed_as_it_is() -> None:
    out, clock = io.StringIO(), Clock()
    with SegmentProgress(file=out, clock=clock) as progress:
        progress.begin(2, 1, {"[red]:smile:[/red] " + "x" * 200: 1})
    assert lines(out)[0].endswith("1 rejected ([red]:smile:[/red] " + "x" * 200 + " 1)")


def test_standard_output_stays_free() -> None:
    done = subprocess.run([sys.executable, "-c", SHOW], capture_output=True, text=True, check=True)
    assert done.stdout == ""
    assert re.fullmatch(
        r"1,500/2,000 inputs · [\d,.]+ films/s · in 0:00:0\d · 20 rejected \(empty 12, corrupt 8\)\n", done.stderr
    )


def test_a_terminal_of_80_columns_shows_a_bar_and_the_words() -> None:
    text = " ".join(shown_on_a_terminal(SHOW).split())
    assert re.search(
        r"1,500/2,000 inputs · [\d,.]+ films/s · 0:00:0\d left · 4 actors · 20 rejected \(empty 12, corrupt 8\)", text
    )
    bar = max(re.findall("[━╸]+", text), key=len)
    assert len(bar) == 80 * 1500 // 2000  # without colour the rest of the bar is blank
    assert "2,000 inputs listed" in text
    assert "in 0:00" not in text  # the line for logs


def test_films_are_counted_every_half_minute() -> None:
    out, clock = io.StringIO(), Clock()
    with CountProgress("packing", file=out, clock=clock) as progress:
        for done in range(0, 80, 20):
            progress.update(done, 1_000)
            clock.now += 20
    assert lines(out) == ["packing · 40/1,000 films · 0:16:00 left"]

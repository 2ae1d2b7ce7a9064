"""Progress on standard error: a bar over a line of words on a terminal, a plain line now and then elsewhere.

Every class is a context manager, takes a ``file`` in place of standard error and a ``clock`` in seconds that never runs
backwards, and learns how far the work has come. No image id and no name of a file is shown.
"""

from __future__ import annotations

import math
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TextIO

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from typing_extensions import Self

LINE_SECONDS = 30
WINDOW_SECONDS = 60

Clock = Callable[[], float]


class Display:
    """The bar, the words and the lines that all commands share."""

    def __init__(self, file: TextIO | None = None, clock: Clock = time.monotonic) -> None:
        self._console = Console(file=file, stderr=True, highlight=False)
        self._on_terminal = self._console.is_terminal and not self._console.is_dumb_terminal
        self._clock = clock
        self._line_at = clock()
        self._words, self._done, self._total = "", 0, 0
        self._live = Live(get_renderable=self._view, console=self._console, transient=True)

    def __enter__(self) -> Self:
        if self._on_terminal:
            self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._live.stop()

    def _show(self, words: str, done: int = 0, total: int = 0) -> None:
        self._words, self._done, self._total = words, done, total

    def _report(self, words: str, done: int = 0, total: int = 0) -> None:
        """Show; off a terminal print the words as a line, every ``LINE_SECONDS`` at most."""
        self._show(words, done, total)
        if not self._on_terminal and self._clock() - self._line_at >= LINE_SECONDS:
            self._line_at = self._clock()
            self._print(words)

    def _print(self, line: str) -> None:
        self._console.print(Text(line), soft_wrap=True)

    def _view(self) -> Table:
        view = Table.grid(expand=True)
        if self._total:
            view.add_row(ProgressBar(total=self._total, completed=self._done))
        if self._words:
            view.add_row(Text(self._words))
        return view


class Speed:
    """How much is done a second, over the last ``window`` seconds."""

    def __init__(self, now: float, done: int, window: float = WINDOW_SECONDS) -> None:
        self._window = window
        self._samples = deque([(now, done)])  # the first is as old as the window

    def add(self, now: float, done: int) -> None:
        self._samples.append((now, done))
        while self._samples[1][0] <= now - self._window:
            self._samples.popleft()

    @property
    def rate(self) -> float | None:
        """None before any time has passed."""
        (began, before), (now, done) = self._samples[0], self._samples[-1]
        return max(0, done - before) / (now - began) if now > began else None

    def left(self, todo: int) -> str:
        """The time that the rest needs, in words."""
        return f"{clock_time(max(0, todo) / self.rate) if self.rate else '-'} left"


class CountProgress(Display):
    """Films done of all: ``packing · 1,200/5,000 films · 0:01:10 left``."""

    def __init__(self, what: str, file: TextIO | None = None, clock: Clock = time.monotonic) -> None:
        super().__init__(file, clock)
        self._what = what
        self._speed = Speed(clock(), 0)
        self._show(what)

    def update(self, done: int, total: int) -> None:
        self._speed.add(self._clock(), done)
        self._report(joined(self._what, f"{done:,}/{total:,} films", self._speed.left(total - done)), done, total)


class SegmentProgress(Display):
    """Inputs done, films/s, rejected inputs by reason, the time left and the number of actors; at its end, the whole.

    Call ``listed`` while the archive is listed, ``begin`` once, then ``update`` as often as is handy.
    """

    _begun: tuple[float, int] | None = None

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)
        if self._begun and not self._on_terminal:
            whole = Speed(*self._begun, window=math.inf)
            whole.add(self._clock(), self._finished)
            took = f"in {clock_time(self._clock() - self._begun[0])}"
            self._print(joined(self._counted(), films_per_second(whole.rate), took, rejected_words(self._reasons)))

    def listed(self, inputs: int) -> None:
        """So many ``inputs`` were found in the archive so far."""
        self._report(f"{inputs:,} inputs listed")

    def begin(self, total: int, done: int, reasons: Mapping[str, int]) -> None:
        """Of ``total`` inputs, earlier commands did ``done``, those rejected for ``reasons`` among them."""
        self._inputs, self._finished, self._reasons = total, done, dict(reasons)
        self._begun = (self._clock(), done)
        self._speed = Speed(*self._begun)
        self._line_at = self._begun[0]
        self._update("")

    def update(self, ok: int, reasons: Mapping[str, int], actors: int) -> None:
        """``ok`` inputs are segmented and ``reasons`` counts the rejected ones so far, those of earlier commands
        included."""
        self._finished, self._reasons = ok + sum(reasons.values()), dict(reasons)
        self._speed.add(self._clock(), self._finished)
        self._update("1 actor" if actors == 1 else f"{actors} actors")

    def _update(self, actors: str) -> None:
        speed, left = films_per_second(self._speed.rate), self._speed.left(self._inputs - self._finished)
        words = joined(self._counted(), speed, left, actors, rejected_words(self._reasons))
        self._report(words, self._finished, self._inputs)

    def _counted(self) -> str:
        return f"{self._finished:,}/{self._inputs:,} inputs"


class ClientProgress(Display):
    """Films done, films/s, the time left, and how many were rejected or failed. Call ``update`` once a film."""

    def __init__(self, total: int, file: TextIO | None = None, clock: Clock = time.monotonic) -> None:
        super().__init__(file, clock)
        self._films = total
        self._statuses: Counter[str] = Counter()
        self._reasons: Counter[str] = Counter()
        self._speed = Speed(clock(), 0)

    def update(self, row: Mapping[str, Any]) -> None:
        """One more film is done: its ``status`` and, where that is rejected, the ``reason``."""
        self._statuses[row["status"]] += 1
        if row["status"] == "rejected":
            self._reasons[row["reason"]] += 1
        done = self._statuses.total()
        self._speed.add(self._clock(), done)
        failed = f"{self._statuses['failed']:,} failed" if self._statuses["failed"] else ""
        speed, left = films_per_second(self._speed.rate), self._speed.left(self._films - done)
        words = joined(f"{done:,}/{self._films:,} films", speed, left, rejected_words(self._reasons), failed)
        self._report(words, done, self._films)


def rejected_words(reasons: Mapping[str, int]) -> str:
    """``12 rejected (corrupt 8, empty 4)``, the commonest first; empty where nothing was rejected."""
    counts = sorted(((-count, reason) for reason, count in reasons.items() if count))
    if not counts:
        return ""
    each = ", ".join(f"{reason} {-negative:,}" for negative, reason in counts)
    return f"{sum(reasons.values()):,} rejected ({each})"


def films_per_second(rate: float | None) -> str:
    return "- films/s" if rate is None else f"{rate:,.1f} films/s"


def clock_time(seconds: float) -> str:
    """Hours, minutes and seconds: 27:05:09."""
    minutes, second = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{second:02}"


def joined(*parts: str) -> str:
    return " · ".join(part for part in parts if part)

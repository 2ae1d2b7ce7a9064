"""What a person sees while an archive is outlined: a live bar on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import TextIO

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

WINDOW_SECONDS = 60
LINE_SECONDS = 30


class SegmentProgress:
    """Shows inputs done, films/s, rejects by reason, the time left and the actors at work.

    On standard error unless ``file`` says otherwise; ``clock`` gives seconds that never run backwards. No image id
    reaches it, so none is printed. Use it as a context manager: ``listed`` while the archive is gone through, ``begin``
    once, then ``update`` as often as is handy.
    """

    def __init__(self, file: TextIO | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = Console(file=file, stderr=True, highlight=False)
        self._clock = clock
        self._on_terminal = self._console.is_terminal and not self._console.is_dumb_terminal
        self._total = self._done = 0
        self._reasons: Mapping[str, int] = {}
        self._text = ""
        self._samples: deque[tuple[float, int]] = deque()  # (seconds, inputs done); the first is as old as the window
        self._begun = (0.0, 0)
        self._line_at = clock()
        self._live = Live(get_renderable=self._view, console=self._console, transient=True)

    def __enter__(self) -> SegmentProgress:
        if self._on_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()
        if self._samples and not self._on_terminal:
            self._print(self._last_line())

    def listed(self, inputs: int) -> None:
        """So many ``inputs`` were found in the archive up to now."""
        self._tell(self._clock(), f"{inputs:,} inputs listed")

    def begin(self, total: int, done: int, reasons: Mapping[str, int]) -> None:
        """Of ``total`` inputs, ``done`` were dealt with by earlier runs, those rejected for ``reasons`` among them."""
        self._total, self._done, self._reasons = total, done, dict(reasons)
        self._begun = (self._clock(), done)
        self._samples = deque([self._begun])
        self._line_at = self._begun[0]
        self._text = self._line(None, "")

    def update(self, ok: int, reasons: Mapping[str, int], actors: int) -> None:
        """``ok`` inputs are outlined and ``reasons`` counts the rejected ones so far, earlier runs' part included."""
        self._done, self._reasons = ok + sum(reasons.values()), dict(reasons)
        now = self._clock()
        self._samples.append((now, self._done))
        while self._samples[1][0] <= now - WINDOW_SECONDS:
            self._samples.popleft()
        rate = _rate(self._samples[0], self._samples[-1])
        self._tell(now, self._line(rate, "1 actor" if actors == 1 else f"{actors} actors"))

    def _tell(self, now: float, text: str) -> None:
        self._text = text
        if not self._on_terminal and now - self._line_at >= LINE_SECONDS:
            self._line_at = now
            self._print(text)

    def _line(self, rate: float | None, actors: str) -> str:
        left = _clock_time(max(0, self._total - self._done) / rate) if rate else "-"
        return _joined(self._counted(), _speed(rate), f"{left} left", actors, rejected_words(self._reasons))

    def _last_line(self) -> str:
        """How far it came, and how fast from begin to end: the last minute's pace would say little."""
        end = (self._clock(), self._done)
        took = f"in {_clock_time(end[0] - self._begun[0])}"
        return _joined(self._counted(), _speed(_rate(self._begun, end)), took, rejected_words(self._reasons))

    def _counted(self) -> str:
        return f"{self._done:,}/{self._total:,} inputs"

    def _view(self) -> Table:
        """The bar, from ``begin`` on, over the words."""
        view = Table.grid(expand=True)
        if self._samples:
            view.add_row(ProgressBar(total=self._total, completed=self._done))
        if self._text:
            view.add_row(Text(self._text))
        return view

    def _print(self, line: str) -> None:
        self._console.print(Text(line), soft_wrap=True)


def rejected_words(reasons: Mapping[str, int]) -> str:
    """``12 rejected (corrupt 8, empty 4)``, the commonest first; nothing where nothing was rejected."""
    counts = sorted(((-count, reason) for reason, count in reasons.items() if count))
    if not counts:
        return ""
    each = ", ".join(f"{reason} {-negative:,}" for negative, reason in counts)
    return f"{sum(reasons.values()):,} rejected ({each})"


def _rate(start: tuple[float, int], end: tuple[float, int]) -> float | None:
    seconds, inputs = end[0] - start[0], end[1] - start[1]
    return max(0, inputs) / seconds if seconds > 0 else None


def _speed(rate: float | None) -> str:
    return "- films/s" if rate is None else f"{rate:,.1f} films/s"


def _clock_time(seconds: float) -> str:
    """Hours, minutes and seconds: 27:05:09."""
    minutes, second = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{second:02}"


def _joined(*parts: str) -> str:
    return " · ".join(part for part in parts if part)

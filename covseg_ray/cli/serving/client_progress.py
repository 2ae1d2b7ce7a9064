"""What a person sees while films go through a service: a bar on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.text import Text

from covseg_ray.reports.segment_progress import LINE_SECONDS, rejected_words


class ClientProgress:
    """Shows films done, films/s, the time left, and how many were rejected or failed.

    On standard error unless ``file`` says otherwise; no file's name reaches it. Use it as a context manager, and call
    ``update`` once a film. As short a run as ends before the first line is due leaves nothing.
    """

    def __init__(self, total: int, file: TextIO | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = Console(file=file, stderr=True, highlight=False)
        self._on_terminal = self._console.is_terminal and not self._console.is_dumb_terminal
        self._clock = clock
        self._total = total
        self._began = self._line_at = clock()
        self._statuses: Counter[str] = Counter()
        self._reasons: Counter[str] = Counter()
        words = TextColumn("{task.description}", markup=False)
        self._bar = Progress(BarColumn(20), words, console=self._console, transient=True)
        self._task = self._bar.add_task(self._words(), total=total)

    def __enter__(self) -> ClientProgress:
        if self._on_terminal:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._on_terminal:  # elsewhere it would leave an empty line
            self._bar.stop()

    def update(self, row: Mapping[str, Any]) -> None:
        """One more film is done with: its ``status`` and, where that is rejected, the ``reason``."""
        self._statuses[row["status"]] += 1
        if row["status"] == "rejected":
            self._reasons[row["reason"]] += 1
        self._bar.update(self._task, advance=1, description=self._words())
        if not self._on_terminal and self._clock() - self._line_at >= LINE_SECONDS:
            self._line_at = self._clock()
            self._console.print(Text(self._words()), soft_wrap=True)

    def _words(self) -> str:
        done, seconds = self._statuses.total(), self._clock() - self._began
        rate = done / seconds if seconds > 0 else 0.0
        speed = f"{rate:,.1f} films/s" if rate else "- films/s"
        left = f"{_clock_time((self._total - done) / rate) if rate else '-'} left"
        failed = f"{self._statuses['failed']:,} failed" if self._statuses["failed"] else ""
        parts = (f"{done:,}/{self._total:,} films", speed, left, rejected_words(self._reasons), failed)
        return " · ".join(part for part in parts if part)


def _clock_time(seconds: float) -> str:
    """Hours, minutes and seconds: 27:05:09."""
    minutes, second = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{second:02}"

"""What a person sees while a search runs: a table that grows by a row with each trial, below it a live line on a
terminal, or elsewhere a plain line an epoch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from covseg_ray.reports.progress import SPEED_WINDOW_SECONDS
from covseg_ray.reports.trial_result import TrialResult, format_value


class SearchProgress:
    """Shows each trial as it ends, the epochs of those that run, the best so far and the time left, on standard error
    unless ``file`` says otherwise. ``select`` names the metric. Use it as a context manager."""

    def __init__(self, select: str, file: TextIO | None = None) -> None:
        self._select = select
        self._console = Console(file=file, stderr=True, highlight=False)
        self._results: dict[int, TrialResult] = {}
        self._running: dict[int, int] = {}
        self._best = math.nan
        self._done = 0
        self._widths: list[int] = []
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=16),
            TextColumn("{task.fields[best]}"),
            TimeRemainingColumn(),
            console=self._console,
            disable=not self._console.is_terminal,
            transient=True,
            speed_estimate_period=SPEED_WINDOW_SECONDS,
        )
        self._task = self._progress.add_task("", total=None, best="")

    def __enter__(self) -> SearchProgress:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def begin(self, results: Sequence[TrialResult]) -> None:
        """The trials, those that ended before this command among them."""
        self._results = {result.number: result for result in results}
        heading = ["trial", *(key.rsplit(".", 1)[-1] for key in results[0].values), "epochs", self._select, "ended"]
        rows = [heading, *(self._cells(result) for result in results)]
        self._widths = [max(len(row[column]) for row in rows) for column in range(len(heading))]
        self._print(heading)
        for result in results:
            if result.ended:
                self.ended(result)
        self._show("starting")

    def epoch_done(self, number: int, record: Mapping[str, float]) -> None:
        """An epoch of a trial is done."""
        epoch, score = int(record["epoch"]), record[self._select]
        self._best = score if math.isnan(self._best) else max(self._best, score)
        self._running[number] = epoch
        if not self._console.is_terminal:
            self._say(f"trial {number} epoch {epoch}/{self._results[number].epochs} · {self._select} {score:.4f}")
        self._show()

    def ended(self, result: TrialResult) -> None:
        """A trial ended: a row of the table."""
        self._running.pop(result.number, None)
        self._done += result.epochs  # what a stopped one does not train is not to come either
        if result.history:
            score = result.score(self._select)
            self._best = score if math.isnan(self._best) else max(self._best, score)
        self._print(self._cells(result))
        self._show()

    def finishing(self, best: TrialResult) -> None:
        """All trials have ended, and the best one's model is made."""
        self._say(f"trial {best.number} is the best; its model is measured and kept")
        self._show(f"trial {best.number}: measuring")

    def _show(self, doing: str = "") -> None:
        running = ", ".join(f"trial {n} epoch {e}/{self._results[n].epochs}" for n, e in self._running.items())
        total = sum(result.epochs for result in self._results.values())
        self._progress.update(
            self._task,
            total=total,
            completed=self._done + sum(self._running.values()),
            description=doing or running or f"{len(self._results)} trials",
            best="" if math.isnan(self._best) else f"best {self._best:.4f}",
        )

    def _cells(self, result: TrialResult) -> list[str]:
        score = f"{result.score(self._select):.4f}" if result.history else "-"
        epochs = f"{len(result.history)}/{result.epochs}"
        return [
            str(result.number),
            *(format_value(value) for value in result.values.values()),
            epochs,
            score,
            result.ended,
        ]

    def _print(self, cells: Sequence[str]) -> None:
        self._say("  ".join(cell.ljust(width) for cell, width in zip(cells, self._widths, strict=True)).rstrip())

    def _say(self, line: str) -> None:
        self._console.print(line, markup=False, soft_wrap=True)

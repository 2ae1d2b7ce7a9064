"""Progress of training and of a search."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, TextIO

from covseg_ray.cli.progress import Clock, Display, Speed, joined

if TYPE_CHECKING:
    from covseg_ray.reports.trial_result import TrialResult

WINDOW_SECONDS = 900  # holds a whole epoch, so that the time left counts validation too


class TrainingProgress(Display):
    """Images/s, loss, current and best score and the time left; a line for each epoch. ``select`` names the metric of
    an epoch's record that is the score."""

    def __init__(
        self, select: str = "iou_two_class", file: TextIO | None = None, clock: Clock = time.monotonic
    ) -> None:
        super().__init__(file, clock)
        self._select = select
        self._epochs = 0
        self._score = ""
        self._speed: Speed | None = None

    def update(self, step: int, steps: int, epoch: int, epochs: int, images_per_second: float, loss: float) -> None:
        """``step`` of ``steps`` is done in ``epoch`` of ``epochs``, all counted from 1."""
        self._epochs = epochs
        done, total = (epoch - 1) * steps + step, epochs * steps
        self._speed = self._speed or Speed(self._clock(), done, WINDOW_SECONDS)
        self._speed.add(self._clock(), done)
        speed, left = f"{images_per_second:.1f} images/s", self._speed.left(total - done)
        self._show(joined(f"epoch {epoch}/{epochs}", speed, f"loss {loss:.3f}", self._score, left), done, total)

    def maps_done(self, films: int, total: int) -> None:
        """So many films of all have their teachers' maps."""
        self._report(f"teachers' maps · {films:,}/{total:,} films", films, total)

    def epoch_done(self, record: Mapping[str, float], best: float) -> None:
        """Print a finished epoch; ``best`` is the best score so far, this epoch's included."""
        current = record[self._select]
        short = "IoU" if self._select.startswith("iou") else self._select  # the live line has 80 columns
        self._score = f"{short} {current:.3f}, best {best:.3f}"
        of = f"/{self._epochs}" if self._epochs else ""
        epoch, score = f"epoch {int(record['epoch'])}{of}", f"{self._select} {current:.4f} (best {best:.4f})"
        losses = [f"{key} {record[key]:.4f}" for key in ("loss", "val_loss")]
        speed, seconds = f"{record['images_per_second']:.1f} images/s", f"{record['seconds']:.0f} s"
        self._print(joined(epoch, *losses, score, speed, seconds))


class SearchProgress(Display):
    """A table that gains a row with each trial that ends; below it the epochs of those that run, the best score and the
    time left, or off a terminal a line for each epoch. ``select`` names the metric."""

    def __init__(self, select: str, file: TextIO | None = None, clock: Clock = time.monotonic) -> None:
        super().__init__(file, clock)
        self._select = select
        self._results: dict[int, TrialResult] = {}
        self._running: dict[int, int] = {}
        self._best = math.nan
        self._epochs = 0
        self._widths: list[int] = []
        self._speed = Speed(clock(), 0, WINDOW_SECONDS)

    def begin(self, results: Sequence[TrialResult]) -> None:
        """The trials, those that ended before this command among them."""
        self._results = {result.number: result for result in results}
        heading = ["trial", *(key.rsplit(".", 1)[-1] for key in results[0].values), "epochs", self._select, "ended"]
        rows = [heading, *(self._cells(result) for result in results)]
        self._widths = [max(len(row[column]) for row in rows) for column in range(len(heading))]
        self._print_row(heading)
        for result in results:
            if result.ended:
                self.ended(result)
        self._speed = Speed(self._clock(), self._epochs, WINDOW_SECONDS)
        self._update("starting")

    def maps_done(self, films: int, total: int) -> None:
        """So many films of all have their teachers' maps."""
        self._report(f"teachers' maps · {films:,}/{total:,} films", films, total)

    def epoch_done(self, number: int, record: Mapping[str, float]) -> None:
        """An epoch of a trial is done."""
        epoch, score = int(record["epoch"]), record[self._select]
        self._best = score if math.isnan(self._best) else max(self._best, score)
        self._running[number] = epoch
        if not self._on_terminal:
            self._print(f"trial {number} epoch {epoch}/{self._results[number].epochs} · {self._select} {score:.4f}")
        self._update()

    def ended(self, result: TrialResult) -> None:
        """A trial ended: a row of the table."""
        self._running.pop(result.number, None)
        self._epochs += result.epochs  # a stopped trial has no epochs left either
        if result.history:
            score = result.score(self._select)
            self._best = score if math.isnan(self._best) else max(self._best, score)
        self._print_row(self._cells(result))
        self._update()

    def finishing(self, best: TrialResult) -> None:
        """All trials have ended, and the best one's model is measured."""
        self._print(f"trial {best.number} is the best; its model is measured and kept")
        self._update(f"trial {best.number}: measuring")

    def _update(self, doing: str = "") -> None:
        running = ", ".join(f"trial {n} epoch {e}/{self._results[n].epochs}" for n, e in self._running.items())
        total = sum(result.epochs for result in self._results.values())
        done = self._epochs + sum(self._running.values())
        self._speed.add(self._clock(), done)
        best = "" if math.isnan(self._best) else f"best {self._best:.4f}"
        words = doing or running or f"{len(self._results)} trials"
        self._show(joined(words, best, self._speed.left(total - done)), done, total)

    def _cells(self, result: TrialResult) -> list[str]:
        from covseg_ray.reports.trial_result import format_value

        score = f"{result.score(self._select):.4f}" if result.history else "-"
        epochs = f"{len(result.history)}/{result.epochs}"
        return [
            str(result.number),
            *(format_value(value) for value in result.values.values()),
            epochs,
            score,
            result.ended,
        ]

    def _print_row(self, cells: Sequence[str]) -> None:
        self._print("  ".join(cell.ljust(width) for cell, width in zip(cells, self._widths, strict=True)).rstrip())

"""What a person sees while a model trains: a live line on a terminal, one plain line an epoch elsewhere."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import TracebackType
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

SPEED_WINDOW_SECONDS = 900  # long enough to hold a whole epoch, so that the time left counts validation too


class TrainingProgress:
    """Shows images/s, loss, current and best score and the time left, on standard error unless ``file`` says otherwise.

    ``select`` names the metric of an epoch's record that is shown as the score. Use it as a context manager.
    """

    def __init__(self, select: str = "iou_two_class", file: TextIO | None = None) -> None:
        self._select = select
        self._console = Console(file=file, stderr=True, highlight=False)
        self._epochs = 0
        self._progress = Progress(
            TextColumn("epoch {task.fields[epoch]}"),
            BarColumn(bar_width=16),
            TextColumn("{task.fields[speed]} images/s · loss {task.fields[loss]} {task.fields[score]}"),
            TimeRemainingColumn(),
            console=self._console,
            disable=not self._console.is_terminal,
            transient=True,
            speed_estimate_period=SPEED_WINDOW_SECONDS,
        )
        self._task = self._progress.add_task("", total=None, epoch="-", speed="-", loss="-", score="")

    def __enter__(self) -> TrainingProgress:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def update(self, step: int, steps: int, epoch: int, epochs: int, images_per_second: float, loss: float) -> None:
        """``step`` of ``steps`` is done in ``epoch`` of ``epochs``, all counted from 1."""
        self._epochs = epochs
        self._progress.update(
            self._task,
            total=epochs * steps,
            completed=(epoch - 1) * steps + step,
            epoch=f"{epoch}/{epochs}",
            speed=f"{images_per_second:.1f}",
            loss=f"{loss:.3f}",
        )

    def epoch_done(self, record: Mapping[str, float], best: float) -> None:
        """Write one line about a finished epoch; ``best`` is the best score so far, this epoch's included."""
        current = record.get(self._select, math.nan)
        self._progress.update(self._task, score=f"· {_short(self._select)} {current:.3f}, best {best:.3f}")
        score = f"{self._select} {current:.4f} (best {best:.4f})"
        of = f"/{self._epochs}" if self._epochs else ""
        losses = [f"{key} {record[key]:.4f}" for key in ("loss", "val_loss") if key in record]
        speed = [f"{record['images_per_second']:.1f} images/s"] if "images_per_second" in record else []
        seconds = [f"{record['seconds']:.0f} s"] if "seconds" in record else []
        line = " · ".join([f"epoch {int(record['epoch'])}{of}", *losses, score, *speed, *seconds])
        self._console.print(line, markup=False, soft_wrap=True)


def _short(metric: str) -> str:
    """``IoU`` for ``iou_two_class``: the live line has 80 columns."""
    return "IoU" if metric.startswith("iou") else metric

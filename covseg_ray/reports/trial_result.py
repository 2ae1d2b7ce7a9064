"""The result of one trial of a search, for the table, the report and the progress on the screen."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

FINISHED, STOPPED, FAILED = "finished", "stopped early", "failed"


@dataclass(frozen=True)
class TrialResult:
    """``values`` are those of the searched keys, by dotted key; ``history`` holds one record an epoch of the ``epochs``
    that it may have; ``ended`` says why it ended, and is empty until then."""

    number: int
    values: Mapping[str, Any]
    epochs: int
    history: Sequence[Mapping[str, float]]
    ended: str = ""

    @property
    def failed(self) -> bool:
        return self.ended.startswith(FAILED)

    def best(self, select: str) -> Mapping[str, float] | None:
        """The record with the highest ``select``, the last of equals; None before the first epoch is done."""
        return max(reversed(self.history), key=lambda record: record[select], default=None)

    def score(self, select: str) -> float:
        """The highest ``select``; NaN before the first epoch is done."""
        best = self.best(select)
        return best[select] if best else math.nan

    def row(self, select: str) -> dict[str, Any]:
        """The trial as one row of the table: every value by its key."""
        best = self.best(select)
        return {
            "trial": self.number,
            **self.values,
            "epochs": len(self.history),
            "best_epoch": int(best["epoch"]) if best else None,
            select: best[select] if best else None,
            "ended": self.ended,
        }


def best_of(results: Sequence[TrialResult], select: str) -> TrialResult:
    """The trial with the highest ``select`` of all epochs, the first of equals. Failed trials do not count; at least
    one must not have failed."""
    return max((each for each in results if not each.failed and each.history), key=lambda each: each.score(select))


def format_value(value: Any) -> str:
    """A value as in the job file, without quotes."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)

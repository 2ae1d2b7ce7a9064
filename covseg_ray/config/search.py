"""What ``covseg-ray tune`` searches: ``[[search]]``, the values that a key of the job may take, and ``[tune]``."""

from __future__ import annotations

import math
from typing import Annotated, Any

from pydantic import BaseModel, Field, model_validator


class Search(BaseModel, frozen=True, extra="forbid"):
    """One key of the job and its values: a range from ``low`` to ``high``, or the list ``choose``. A key that takes
    whole numbers gets whole ones, ``high`` included."""

    key: str = Field(description="dotted key of the job, as train.learning_rate")
    low: int | float | None = Field(default=None, description="lowest value of a range")
    high: int | float | None = Field(default=None, description="highest value of a range")
    log: bool = Field(default=False, description="draw from the range on a logarithmic scale")
    choose: tuple[Any, ...] = Field(default=(), description="list of values")

    @property
    def ends(self) -> tuple[Any, ...]:
        """The values of ``choose``, or the lowest and the highest: if these can be used, so can what lies between."""
        return self.choose or (self.low, self.high)

    def at(self, share: float, whole: bool) -> Any:
        """The value at ``share`` (0 to 1, 1 not included) of the way from the first to the last; of a range, to four
        digits."""
        if self.low is None or self.high is None:
            return self.choose[int(share * len(self.choose))]
        low, high = self.low, self.high + whole
        scale, back = (math.log, math.exp) if self.log else (float, float)
        value = back(scale(low) + share * (scale(high) - scale(low)))
        value = math.floor(value) if whole else float(f"{value:.4g}")
        return min(max(value, self.low), self.high)

    @model_validator(mode="after")
    def _a_range_or_a_choice(self) -> Search:
        is_range = self.low is not None or self.high is not None
        if is_range == bool(self.choose) or (self.choose and self.log):
            raise ValueError(f"{self.key}: give low and high (and log = true), or choose = [...]")
        if is_range and (self.low is None or self.high is None):
            raise ValueError(f"{self.key}: give both low and high")
        if self.low is not None and self.high is not None:
            if not self.low < self.high:
                raise ValueError(f"{self.key}: low must be less than high, and {self.low} is not less than {self.high}")
            if self.log and self.low <= 0:
                raise ValueError(f"{self.key}: log = true needs low above 0, got {self.low}")
        return self


class Tune(BaseModel, frozen=True, extra="forbid"):
    """How a search runs. After ``grace`` epochs, ``reduction`` times as many, and so on, a trial continues only if it
    is among the best 1 of ``reduction`` of those that came as far."""

    trials: Annotated[int, Field(ge=1, description="number of jobs to try")] = 12
    at_once: Annotated[int, Field(ge=1, description="trials in parallel")] = 1
    grace: Annotated[int, Field(ge=1, description="epochs that every trial gets")] = 3
    reduction: Annotated[int, Field(ge=2, description="at each stage the best 1 of so many continues")] = 3

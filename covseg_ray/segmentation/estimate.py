"""A measured value with its confidence interval, as a bundle stores it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Estimate:
    """A metric and its bootstrap 95 % interval."""

    value: float
    low: float
    high: float

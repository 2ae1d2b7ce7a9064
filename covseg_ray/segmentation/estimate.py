"""A measured number and how sure it is: what a bundle keeps of its evaluation."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Estimate:
    """A metric and its bootstrap 95 % interval."""

    value: float
    low: float
    high: float

"""Measured values of a model for a page: words and numbers, no pixels, no arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

Interval = tuple[float, float, float]  # a value, and the low and high end of its 95 % interval


@dataclass(frozen=True, slots=True)
class StratumRow:
    """A group of films, such as ``Label COVID-19``: how many they are, and their metrics by name."""

    name: str
    films: int
    metrics: Mapping[str, Interval]


@dataclass(frozen=True, slots=True)
class ReliabilityLine:
    """``points`` are mean probability and infected share of the pixels of a bin, 0 to 1, from low to high."""

    name: str
    points: Sequence[tuple[float, float]]
    expected_error: float
    brier: float


@dataclass(frozen=True, slots=True)
class FreeResponseView:
    """By model, ``points`` are false regions (a film of the kind that ``axis`` names) and the share of lesions found,
    one a threshold; ``own`` is the point of the model's own rule, and ``summary`` says the same in words."""

    points: Mapping[str, Sequence[tuple[float, float]]]
    own: Mapping[str, tuple[float, float]]
    axis: str
    summary: str
    rule: str


@dataclass(frozen=True, slots=True)
class Findings:
    """Beyond the metrics: groups of films, calibration and the free-response view, each as far as there is one."""

    strata: Sequence[StratumRow] = ()
    reliability: Sequence[ReliabilityLine] = ()
    free_response: FreeResponseView | None = None

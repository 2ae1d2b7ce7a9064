"""Traces of how files were made that tell the films of one label from all others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

MIN_AUC = 0.75
MIN_FILMS = 30  # of either kind: with fewer, chance alone often gives MIN_AUC


@dataclass(frozen=True, slots=True)
class Shortcut:
    """A trace (:func:`~covseg_ray.radiograph.file_traces.file_traces`) that tells the films of ``label`` from all
    others, and how well: 1 is always, 0.5 not at all."""

    trace: str
    label: str
    auc: float


def find_shortcuts(labels: Sequence[str], traces: Sequence[Mapping[str, float]]) -> list[Shortcut]:
    """Every trace and label with an AUC of at least 0.75, the greatest first, for the label and traces of each film.

    A label is compared where at least 30 films have it and 30 do not.
    """
    label_N = np.array(labels)
    found = []
    for label in sorted(set(labels)):
        chosen_N = label_N == label
        if min(chosen_N.sum(), (~chosen_N).sum()) >= MIN_FILMS:
            for trace in traces[0]:
                area = auc(np.array([each[trace] for each in traces]), chosen_N)
                if max(area, 1 - area) >= MIN_AUC:
                    found.append(Shortcut(trace, label, round(max(area, 1 - area), 4)))
    return sorted(found, key=lambda each: (-each.auc, each.trace, each.label))


def auc(value_N: NDArray[np.float64], chosen_N: NDArray[np.bool_]) -> float:
    """The area under the ROC curve: the share of pairs of a chosen film and another in which the chosen one has the
    greater value, ties counted as halves (Mann-Whitney U over the number of pairs; Hanley and McNeil, Radiology 143,
    1982)."""
    chosen, others = int(chosen_N.sum()), int((~chosen_N).sum())
    ranks = float(rankdata(value_N)[chosen_N].sum())
    return (ranks - chosen * (chosen + 1) / 2) / (chosen * others)

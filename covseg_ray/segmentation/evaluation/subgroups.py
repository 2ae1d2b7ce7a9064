"""Metrics of groups of films (strata), so that an average does not hide a group on which a model fails."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from covseg_ray.segmentation.estimate import Estimate
from covseg_ray.segmentation.evaluation.metrics import Counts, summarise

SMALL, LARGE = 0.05, 0.20
SHARES = ("under 5 %", "5 to 20 %", "20 % and over")

Members = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Stratum:
    """How many films a stratum holds, and their metrics."""

    images: int
    metrics: dict[str, Estimate]


def divide(labels: Sequence[str], counts_N4: Counts) -> dict[str, dict[str, Members]]:
    """The films of each stratum, bool ``[N]``: by ``label``, and by ``infected_share``.

    The latter is the true infected share of the film (tp + fn of all pixels), of films that have infection, within
    fixed bounds: quantiles would differ between sets of films. A stratum without films is left out.
    """
    names_N = np.asarray(labels)
    infected_N = (counts_N4[:, 0] + counts_N4[:, 2]) / np.maximum(counts_N4.sum(axis=1), 1)
    sizes = [(infected_N > 0) & (infected_N < SMALL), (infected_N >= SMALL) & (infected_N < LARGE), infected_N >= LARGE]
    groups = {
        "label": {str(name): names_N == name for name in np.unique(names_N)},
        "infected_share": dict(zip(SHARES, sizes, strict=True)),
    }
    return {
        group: {name: members_N for name, members_N in members.items() if members_N.any()}
        for group, members in groups.items()
    }


def summarise_strata(
    image_ids: Sequence[str], labels: Sequence[str], counts_N4: Counts, lungs_N4: Counts | None = None
) -> dict[str, dict[str, Stratum]]:
    """Every metric of each stratum with its interval, as :func:`summarise` gives it."""
    ids_N = np.asarray(image_ids)
    return {
        group: {
            name: Stratum(
                images=int(members_N.sum()),
                metrics=summarise(
                    ids_N[members_N].tolist(),
                    counts_N4[members_N],
                    None if lungs_N4 is None else lungs_N4[members_N],
                ),
            )
            for name, members_N in members.items()
        }
        for group, members in divide(labels, counts_N4).items()
    }

"""Compare two models on the same films: both models' metrics, and each difference with its interval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from covseg_ray.engine.evaluation.run import Evaluation, measure, show
from covseg_ray.errors import UsageError
from covseg_ray.reports.film_result import ChangedFilm
from covseg_ray.segmentation.evaluation.bootstrap import Difference, Ratio, difference
from covseg_ray.segmentation.evaluation.metrics import LOWER_IS_BETTER, ratios
from covseg_ray.segmentation.evaluation.subgroups import Members, divide
from covseg_ray.segmentation.network.bundle import LUNG, Bundle
from covseg_ray.storage.datasets.read import Subset

CHANGED = 4


@dataclass(frozen=True)
class ComparedStratum:
    """How many films a stratum holds, and the differences on them."""

    images: int
    differences: Mapping[str, Difference]


@dataclass(frozen=True)
class Comparison:
    """``first`` and ``second`` are of the same films in the same order; differences are second minus first."""

    first: Evaluation
    second: Evaluation
    differences: Mapping[str, Difference]
    strata: Mapping[str, Mapping[str, ComparedStratum]]
    changed: Sequence[ChangedFilm]
    notes: tuple[str, ...]


def require_two(first: Bundle, second: Bundle) -> None:
    """Raise UsageError where both bundles hold the same model."""
    if first.model_id == second.model_id:
        raise UsageError(f"both bundles are the same model, id {first.model_id}; give two that differ")


def compare(first: Bundle, second: Bundle, films: Subset, workers: int) -> Comparison:
    """Both models' metrics, each at its own input size, and their differences. Raises what :func:`require_two` and
    :func:`measure` raise."""
    require_two(first, second)
    one, two = measure(first, films, workers), measure(second, films, workers)
    chosen = most_changed(one.counts_N4, two.counts_N4)
    shown = (show(bundle, films.dataset, found, chosen) for bundle, found in ((first, one), (second, two)))
    return Comparison(
        first=one,
        second=two,
        differences=_differences(one, two, np.ones(len(one.image_ids), dtype=bool)),
        strata={
            group: {
                name: ComparedStratum(int(members_N.sum()), _differences(one, two, members_N))
                for name, members_N in of.items()
            }
            for group, of in divide(one.labels, one.counts_N4).items()
        },
        changed=[
            ChangedFilm(a, b, float(wrong_share(one.counts_N4)[row]), float(wrong_share(two.counts_N4)[row]))
            for row, a, b in zip(chosen, *shown, strict=True)
        ],
        notes=_notes(first, second, one, two),
    )


def wrong_share(counts_N4: NDArray[np.int64]) -> NDArray[np.float64]:
    """The share of each film's pixels that are false positive or false negative, float64 ``[N]``."""
    return (counts_N4[:, 1] + counts_N4[:, 2]) / counts_N4.sum(axis=1)


def most_changed(first_N4: NDArray[np.int64], second_N4: NDArray[np.int64], number: int = CHANGED) -> list[int]:
    """Rows of up to ``number`` films that the second model improves most, then as many that it worsens most, by the
    share of wrong pixels: a speck on a healthy film counts less than a missed lung."""
    change_N = wrong_share(second_N4) - wrong_share(first_N4)
    order = np.argsort(change_N, kind="stable")
    better = [int(row) for row in order[:number] if change_N[row] < 0]
    worse = [int(row) for row in order[::-1][:number] if change_N[row] > 0]
    return better + worse


def _differences(one: Evaluation, two: Evaluation, members_N: Members) -> dict[str, Difference]:
    return difference(_ratios(one, members_N), _ratios(two, members_N), LOWER_IS_BETTER)


def _ratios(found: Evaluation, members_N: Members) -> dict[str, Ratio]:
    image_ids = np.asarray(found.image_ids)[members_N].tolist()
    lungs_N4 = None if found.lungs_N4 is None else found.lungs_N4[members_N]
    return ratios(image_ids, found.counts_N4[members_N], lungs_N4)


def _notes(first: Bundle, second: Bundle, one: Evaluation, two: Evaluation) -> tuple[str, ...]:
    lines = [f"{name}: {note}" for name, found in (("A", one), ("B", two)) for note in found.notes]
    with_lungs = [name for name, bundle in (("A", first), ("B", second)) if LUNG in bundle.spec.classes]
    if len(with_lungs) == 1:
        lines.append(f"only {with_lungs[0]} segments lungs: lung metrics are not compared")
    return tuple(lines)

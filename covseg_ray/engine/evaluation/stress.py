"""The metrics of films after each change that an archive may make to them, beside those of the films as they are."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from covseg_ray.engine.evaluation.counts import ChangedCounts, count_changes
from covseg_ray.radiograph.changes import CHANGES
from covseg_ray.segmentation.estimate import Estimate
from covseg_ray.segmentation.evaluation.bootstrap import Difference, Ratio, difference, estimate
from covseg_ray.segmentation.evaluation.metrics import LOWER_IS_BETTER, ratios
from covseg_ray.segmentation.evaluation.probe import probe_auc
from covseg_ray.segmentation.network.bundle import Bundle
from covseg_ray.storage.datasets.read import Subset

METRICS = ("false_alarm", "iou_image", "iou_pooled", "dice_image")


@dataclass(frozen=True)
class Measured:
    """Films after one change, or as they are. By label, ``marked`` is the share of films with any predicted infection
    pixel; ``metrics`` are those of `METRICS` that the films allow."""

    marked: Mapping[str, Estimate]
    metrics: Mapping[str, Estimate]


@dataclass(frozen=True)
class Changed(Measured):
    """Differences are changed minus as it is, paired by film; those of ``marked`` by label. ``probe_auc`` is the
    probe's on the films without infection, None where they are too few."""

    marked_differences: Mapping[str, Difference]
    differences: Mapping[str, Difference]
    probe_auc: Estimate | None


@dataclass(frozen=True)
class Stress:
    """``changes`` by name, in the order of `CHANGES`."""

    as_is: Measured
    changes: Mapping[str, Changed]


def stress(
    bundle: Bundle, films: Subset, workers: int, batch_size: int, on_progress: Callable[[int, int], None]
) -> Stress:
    """Predict every film as it is and after each change, with ``workers`` actors that predict ``batch_size`` films at a
    time. ``on_progress`` is called with the films done and all films, each counted once for each change.

    Raises:
        DatasetError: an unknown split or label, or exclusions that name none of the films or all of them.
    """
    counted = count_changes(bundle, films.dataset, films.units(), tuple(CHANGES), workers, batch_size, on_progress)
    as_is = counted[None]
    return Stress(_measured(as_is), {change: _changed(as_is, counted[change]) for change in CHANGES})


def _measured(films: Sequence[ChangedCounts]) -> Measured:
    return Measured(estimate(marked_ratios(films)), estimate(_metric_ratios(films)))


def _changed(before: Sequence[ChangedCounts], after: Sequence[ChangedCounts]) -> Changed:
    measured = _measured(after)
    without_N = np.array([not film.infection_4[0] + film.infection_4[2] for film in before])
    ill = {film.label for film, without in zip(before, without_N, strict=True) if not without}
    outputs = (np.stack([film.output_F for film in films])[without_N] for films in (before, after))
    lower = frozenset(measured.marked) - ill
    return Changed(
        measured.marked,
        measured.metrics,
        difference(marked_ratios(before), marked_ratios(after), lower),
        difference(_metric_ratios(before), _metric_ratios(after), LOWER_IS_BETTER),
        probe_auc(*outputs),
    )


def marked_ratios(films: Sequence[ChangedCounts]) -> dict[str, Ratio]:
    """By label, whether each film has a predicted infection pixel, over whether it is of that label."""
    labels_N = np.array([film.label for film in films])
    marked_N = np.array([film.infection_4[0] + film.infection_4[1] > 0 for film in films])
    members = {str(label): labels_N == label for label in np.unique(labels_N)}
    return {
        label: ((marked_N & of_label_N).astype(np.float64), of_label_N.astype(np.float64))
        for label, of_label_N in members.items()
    }


def _metric_ratios(films: Sequence[ChangedCounts]) -> dict[str, Ratio]:
    found = ratios([film.image_id for film in films], np.stack([film.infection_4 for film in films]))
    return {name: found[name] for name in METRICS if name in found}

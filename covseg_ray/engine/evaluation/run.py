"""Evaluate a bundle against the masks of a dataset: integer counts of every film, and all metrics from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from covseg_ray.engine.evaluation.counts import columns, count_split, predict_at_film_size
from covseg_ray.errors import UsageError
from covseg_ray.reports.film_result import FilmResult
from covseg_ray.segmentation.estimate import Estimate
from covseg_ray.segmentation.evaluation.calibration import Calibration, calibration
from covseg_ray.segmentation.evaluation.froc import FreeResponse, free_response
from covseg_ray.segmentation.evaluation.metrics import image_iou, summarise
from covseg_ray.segmentation.evaluation.reliability import Reliability, fit, reliability
from covseg_ray.segmentation.evaluation.subgroups import Stratum, summarise_strata
from covseg_ray.segmentation.inference.expected_iou import expected_iou
from covseg_ray.segmentation.inference.predictor import BatchPredictor
from covseg_ray.segmentation.network.bundle import Bundle
from covseg_ray.storage.datasets.read import Films, Subset, Unit, read_info, read_unit

ALL = "all"
PICTURES = 9


@dataclass(frozen=True)
class Evaluation:
    """``counts_N4`` are int64 true and false positives, false and true negatives of infection pixels, ``lungs_N4`` the
    counts of :func:`count_lung` where the model knows lungs: one row per film, in the order of ``image_ids``, as
    ``agreement_N`` is, from which the expected IoU comes. Each of ``units`` holds one film. ``calibration`` is that of
    all films and of each label; ``expected_iou`` says how far that is right, where the model has a curve for it;
    ``left_out`` films were excluded; ``notes`` are warnings about the numbers."""

    image_ids: tuple[str, ...]
    labels: tuple[str, ...]
    units: tuple[Unit, ...]
    counts_N4: NDArray[np.int64]
    lungs_N4: NDArray[np.int64] | None
    metrics: Mapping[str, Estimate]
    strata: Mapping[str, Mapping[str, Stratum]]
    calibration: Mapping[str, Calibration]
    free_response: FreeResponse
    agreement_N: NDArray[np.float64]
    expected_iou: Reliability | None
    left_out: int
    notes: tuple[str, ...]
    films: Sequence[FilmResult] = ()

    @property
    def infected_ious(self) -> list[float]:
        """The IoU of each film that has infection."""
        infected = self.counts_N4[:, 0] + self.counts_N4[:, 2] > 0
        return [float(iou) for iou in image_iou(self.counts_N4[infected])]


def evaluate(bundle: Bundle, films: Subset, workers: int = 1, batch_size: int = 32) -> Evaluation:
    """As :func:`measure`, with example films for the report."""
    found = measure(bundle, films, workers, batch_size)
    return replace(found, films=show(bundle, films.dataset, found, examples(found.counts_N4, PICTURES)))


def measure(bundle: Bundle, films: Subset, workers: int = 1, batch_size: int = 32) -> Evaluation:
    """Count every film once, with ``workers`` actors that predict ``batch_size`` films at a time, and compute the
    metrics with their intervals.

    Raises:
        UsageError: ``workers`` or ``batch_size`` is below 1.
        DatasetError: an unknown split or label, or exclusions that name none of the films or all of them.
    """
    for name, number in (("workers", workers), ("batch_size", batch_size)):
        if number < 1:
            raise UsageError(f"{name}: must be at least 1, not {number}")
    units = films.units()
    counts = count_split(bundle, films.dataset, units, workers, batch_size)
    counted, labels = counts.films, tuple(film.label for film in counts.films)
    image_ids, counts_N4, lungs_N4 = columns(counted)
    agreement_N, curve = np.array([film.agreement for film in counted]), bundle.spec.expected_iou
    levels = {ALL: sum(counts.levels.values(), np.zeros((), np.int64))} | dict(counts.levels)
    return Evaluation(
        image_ids=image_ids,
        labels=labels,
        units=tuple(replace(units[film.unit], rows=(units[film.unit].rows[film.place],)) for film in counted),
        counts_N4=counts_N4,
        lungs_N4=lungs_N4,
        metrics=summarise(image_ids, counts_N4, lungs_N4),
        strata=summarise_strata(image_ids, labels, counts_N4, lungs_N4),
        calibration={label: calibration(histogram_2L) for label, histogram_2L in levels.items()},
        free_response=free_response(np.stack([film.marks_M for film in counted])),
        agreement_N=agreement_N,
        expected_iou=reliability(expected_iou(curve, agreement_N), image_iou(counts_N4)) if curve else None,
        left_out=sum(len(unit.rows) for unit in films.all_units()) - len(counted),
        notes=notes(bundle, films),
    )


def measured(bundle: Bundle, found: Evaluation, how: str) -> Bundle:
    """The bundle with its metrics, and with the curve of the expected IoU that these films give."""
    curve = fit(found.agreement_N, image_iou(found.counts_N4))
    about = {"metrics": dict(found.metrics), "metrics_how": how, "expected_iou": curve}
    return Bundle(bundle.spec.model_copy(update=about), bundle.state)


def notes(bundle: Bundle, films: Subset) -> tuple[str, ...]:
    """Warnings about how model and films fit, a line each."""
    info, spec = read_info(films.dataset), bundle.spec
    trained, lines = spec.trained_on, []
    if info.size != spec.input_size:
        lines.append(
            f"films are stored at {info.size} x {info.size} pixels and the model takes {spec.input_size} x "
            f"{spec.input_size}: films are resized for it and masks resized back"
        )
    if info.resize != spec.resize:
        lines.append(f"films were packed with --resize {info.resize}, the model's training films with {spec.resize}")
    if trained and (trained.digest, trained.split) == (info.digest, films.split):
        lines.append("the model was trained on these films: expect lower values on others")
    return tuple(lines)


def examples(counts_N4: NDArray[np.int64], number: int) -> list[int]:
    """Rows of example films: with infection the best, the middle and the worst by IoU, a third each; without infection
    the one with the most predicted pixels."""
    tp, fp, fn, _ = counts_N4.T
    infected = np.flatnonzero(tp + fn)
    ranked = infected[np.argsort(-image_iou(counts_N4[infected]), kind="stable")]
    third = max(1, number // 3)
    middle = max(0, (len(ranked) - third) // 2)
    alarms = np.flatnonzero((tp + fn == 0) & (fp > 0))
    largest_alarm = alarms[np.argsort(-fp[alarms], kind="stable")][:1]
    chosen = dict.fromkeys([*ranked[:third], *ranked[middle : middle + third], *ranked[-third:], *largest_alarm])
    return [int(row) for row in chosen]


def show(bundle: Bundle, dataset: str, found: Evaluation, rows: Sequence[int]) -> list[FilmResult]:
    """The films of those rows, predicted again in this process."""
    predictor = BatchPredictor(bundle)
    return [_show(predictor, read_unit(dataset, found.units[row])) for row in rows]


def _show(predictor: BatchPredictor, films: Films) -> FilmResult:
    classes_NHW, _ = predict_at_film_size(predictor, films.images_NHW)
    found_HW = (classes_NHW[0] == predictor.spec.infection).astype(np.uint8)
    truth_HW = films.masks_NHW[0]
    union = int((found_HW | truth_HW).sum())
    return FilmResult(
        image_id=films.image_ids[0],
        label=films.labels[0],
        image_HW=films.images_NHW[0],
        truth_HW=truth_HW,
        predicted_HW=found_HW,
        iou=float((found_HW & truth_HW).sum() / union) if truth_HW.any() else None,
    )

"""A bundle against the masks of a dataset: integer counts for every film, and the numbers that follow from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from covseg_ray.engine.evaluation.counts import Counts, columns, count_split, look
from covseg_ray.reports.film_result import FilmResult
from covseg_ray.segmentation.estimate import Estimate
from covseg_ray.segmentation.evaluation.calibration import Calibration, calibration
from covseg_ray.segmentation.evaluation.froc import FreeResponse, free_response
from covseg_ray.segmentation.evaluation.metrics import image_iou, summarise
from covseg_ray.segmentation.evaluation.subgroups import Stratum, summarise_strata
from covseg_ray.segmentation.inference.predictor import Predictor
from covseg_ray.segmentation.network.bundle import Bundle
from covseg_ray.storage.datasets.read import Films, Unit, exclude_films, list_units, read_info, read_unit

ALL = "all"
PICTURES = 9


@dataclass(frozen=True)
class Evaluation:
    """``counts_N4`` are int64 true and false positives, false and true negatives of infection pixels, ``lungs_N4`` what
    :func:`count_lung` gives where the model knows lungs: a row a film, in the order of ``image_ids``. ``units`` hold
    one film each, as it is read. ``calibration`` is that of all films and of each label; ``left_out`` films were
    excluded; ``notes`` say what to know of the numbers."""

    image_ids: tuple[str, ...]
    labels: tuple[str, ...]
    units: tuple[Unit, ...]
    counts_N4: NDArray[np.int64]
    lungs_N4: NDArray[np.int64] | None
    metrics: Mapping[str, Estimate]
    strata: Mapping[str, Mapping[str, Stratum]]
    calibration: Mapping[str, Calibration]
    free_response: FreeResponse
    left_out: int
    notes: tuple[str, ...]
    films: Sequence[FilmResult] = ()

    @property
    def infected_ious(self) -> list[float]:
        """The IoU of each film that has infection."""
        infected = self.counts_N4[:, 0] + self.counts_N4[:, 2] > 0
        return [float(iou) for iou in image_iou(self.counts_N4[infected])]


def evaluate(
    bundle: Bundle,
    dataset: str,
    split: str = "val",
    labels: Sequence[str] | None = None,
    workers: int = 1,
    batch_size: int = 32,
    exclude: frozenset[str] = frozenset(),
) -> Evaluation:
    """As :func:`measure`, with films to show."""
    found = measure(bundle, dataset, split, labels, workers, batch_size, exclude)
    chosen = examples(found.counts_N4, PICTURES)
    return replace(found, films=show(bundle, dataset, found, chosen))


def measure(
    bundle: Bundle,
    dataset: str,
    split: str,
    labels: Sequence[str] | None,
    workers: int,
    batch_size: int,
    exclude: frozenset[str],
) -> Evaluation:
    """Count every film of the split once, with ``workers`` actors, and draw the metrics' intervals.

    Raises DatasetError where ``exclude`` names no film of the split, or all.
    """
    every = list_units(dataset, split, labels)
    units = exclude_films(dataset, every, exclude) if exclude else every
    counts = count_split(bundle, dataset, units, workers, batch_size)
    left_out = sum(len(unit.rows) for unit in every) - len(counts.films)
    return conclude(counts, units, left_out, notes(bundle, dataset, split))


def conclude(counts: Counts, units: Sequence[Unit], left_out: int, noted: tuple[str, ...]) -> Evaluation:
    """Every number that follows from the films' integers."""
    films = counts.films
    found, labels = columns(films), tuple(film.label for film in films)
    image_ids, counts_N4, lungs_N4 = found.image_ids, found.counts_N4, found.lungs_N4
    levels = {ALL: sum(counts.levels.values(), np.zeros((), np.int64))} | dict(counts.levels)
    return Evaluation(
        image_ids=image_ids,
        labels=labels,
        units=tuple(_alone(units[film.unit], film.place) for film in films),
        counts_N4=counts_N4,
        lungs_N4=lungs_N4,
        metrics=summarise(image_ids, counts_N4, lungs_N4),
        strata=summarise_strata(image_ids, labels, counts_N4, lungs_N4),
        calibration={label: calibration(histogram_2L) for label, histogram_2L in levels.items()},
        free_response=free_response(np.stack([film.marks_M for film in films])),
        left_out=left_out,
        notes=noted,
    )


def notes(bundle: Bundle, dataset: str, split: str) -> tuple[str, ...]:
    """What a reader of the numbers should know of model and films, a line each."""
    info, spec = read_info(dataset), bundle.spec
    trained, told = spec.trained_on, []
    if info.size != spec.input_size:
        told.append(
            f"films are stored at {info.size} x {info.size} pixels and the model takes {spec.input_size} x "
            f"{spec.input_size}: each is resized for it and its outline carried back"
        )
    if info.resize != spec.resize:
        told.append(f"films were packed with --resize {info.resize}, those that the model learned from {spec.resize}")
    if trained and (trained.digest, trained.split) == (info.digest, split):
        told.append("the model learned from these very films: it does better on them than on others")
    return tuple(told)


def examples(counts_N4: NDArray[np.int64], number: int) -> list[int]:
    """Rows of films to show: of those with infection the best, the middle and the worst by IoU, a third each; of those
    without, the one with the most predicted pixels."""
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
    """The films of those rows, predicted once more, here."""
    predictor = Predictor(bundle)
    return [_show(predictor, read_unit(dataset, found.units[row])) for row in rows]


def _alone(unit: Unit, place: int) -> Unit:
    return Unit(unit.path, unit.row_group, (unit.rows[place],))


def _show(predictor: Predictor, films: Films) -> FilmResult:
    classes_NHW, _ = look(predictor, films.images_NHW)
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

"""Predict every film of a split on Ray actors, as it is or changed, and return integer counts of each film and where it
is stored."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import numpy as np
import ray
import torch
from numpy.typing import NDArray
from ray.util import ActorPool

from covseg_ray.engine.session import cores, predicting_pool
from covseg_ray.radiograph.changes import change_film
from covseg_ray.radiograph.geometry import restore_mask, standardise
from covseg_ray.segmentation.evaluation.calibration import Histogram, count_levels
from covseg_ray.segmentation.evaluation.froc import mark
from covseg_ray.segmentation.evaluation.metrics import count, count_lung
from covseg_ray.segmentation.evaluation.probe import summarise_output
from covseg_ray.segmentation.inference.expected_iou import agreement
from covseg_ray.segmentation.inference.predictor import BatchPredictor, local_device
from covseg_ray.segmentation.network.bundle import LUNG, Bundle
from covseg_ray.segmentation.network.bundle_files import from_files, to_files
from covseg_ray.storage.datasets.read import Films, Unit, read_unit

BundleFiles: TypeAlias = "Sequence[ray.ObjectRef[Mapping[str, bytes]]]"


class FilmCounts(NamedTuple):
    """SplitCounts of one film, and its place in its unit. ``lung_4`` where the model knows lungs; see
    `covseg_ray.segmentation.evaluation.metrics` and `covseg_ray.segmentation.evaluation.froc` for the columns, and
    `covseg_ray.segmentation.inference.expected_iou` for ``agreement``."""

    image_id: str
    label: str
    unit: int
    place: int
    infection_4: NDArray[np.int64]
    lung_4: NDArray[np.int64] | None
    marks_M: NDArray[np.int64]
    agreement: float


class ChangedCounts(NamedTuple):
    """Counts of infection pixels of one film after a change, and the summary of the model's output for it; see
    `covseg_ray.segmentation.evaluation.probe`."""

    image_id: str
    label: str
    infection_4: NDArray[np.int64]
    output_F: NDArray[np.float64]


@dataclass(frozen=True)
class SplitCounts:
    """``films`` ordered by ``image_id``; ``levels`` are pixels by truth and probability, for each label."""

    films: Sequence[FilmCounts]
    levels: Mapping[str, Histogram]


def columns(films: Sequence[FilmCounts]) -> tuple[tuple[str, ...], NDArray[np.int64], NDArray[np.int64] | None]:
    """The films' image ids, infection counts and, where the model knows lungs, lung counts, int64 ``[N, 4]``: one row
    per film, of which there is at least one."""
    lungs = [film.lung_4 for film in films if film.lung_4 is not None]
    infection_N4 = np.stack([film.infection_4 for film in films])
    return tuple(film.image_id for film in films), infection_N4, np.stack(lungs) if lungs else None


class FilmCounter:
    """Predicts the films of a unit and counts; one lives in each actor of the pool."""

    def __init__(self, dataset: str, units: Sequence[Unit], batch_size: int, workers: int) -> None:
        self.device = local_device()
        if self.device == "cpu":
            torch.set_num_threads(max(1, cores() // workers))
        self.dataset, self.units, self.batch_size = dataset, units, batch_size
        self.predictor: BatchPredictor | None = None
        self.last_read: tuple[int, Films] | None = None

    def count(self, unit: int, files: BundleFiles) -> SplitCounts:
        """SplitCounts of one unit's films; ``files`` holds a reference to the bundle's files, read at first use."""
        predictor = self._loaded(files)
        films = read_films(self.dataset, self.units[unit], predictor.spec.classes)
        counted: list[FilmCounts] = []
        levels: dict[str, Histogram] = {}
        for part in self._batches(films):
            counted += count_films(predictor, films, unit, part, levels)
        return SplitCounts(counted, levels)

    def count_changed(
        self, unit: int, change: str | None, files: BundleFiles
    ) -> tuple[str | None, list[ChangedCounts]]:
        """The change, and ChangedCounts of one unit's films after it; None is as they are. The unit that was read last
        is kept, as the changes of a unit follow one another."""
        predictor = self._loaded(files)
        if self.last_read is None or self.last_read[0] != unit:
            self.last_read = unit, read_unit(self.dataset, self.units[unit])
        films = self.last_read[1]
        parts = [count_changed_films(predictor, films, part, change) for part in self._batches(films)]
        return change, [film for part in parts for film in part]

    def _loaded(self, files: BundleFiles) -> BatchPredictor:
        if self.predictor is None:
            self.predictor = BatchPredictor(from_files(ray.get(files[0])), self.device)
        return self.predictor

    def _batches(self, films: Films) -> list[slice]:
        return [slice(start, start + self.batch_size) for start in range(0, len(films.image_ids), self.batch_size)]


def count_split(bundle: Bundle, dataset: str, units: Sequence[Unit], workers: int, batch_size: int) -> SplitCounts:
    """Count every film of the units, with at most ``workers`` actors at a time."""
    pool, files = _counters(dataset, units, workers, batch_size), _shared(bundle)
    films: list[FilmCounts] = []
    levels: dict[str, Histogram] = {}
    for counts in pool.map_unordered(lambda counter, unit: counter.count.remote(unit, files), list(range(len(units)))):
        films += counts.films
        for label, histogram_2L in counts.levels.items():
            levels[label] = levels.get(label, 0) + histogram_2L
    return SplitCounts(sorted(films, key=lambda film: film.image_id), dict(sorted(levels.items())))


def count_changes(
    bundle: Bundle,
    dataset: str,
    units: Sequence[Unit],
    changes: Sequence[str],
    workers: int,
    batch_size: int,
    on_progress: Callable[[int, int], None],
) -> dict[str | None, list[ChangedCounts]]:
    """ChangedCounts of every film of the units by change, those of the films as they are under None, each in the order
    of ``image_id``. ``on_progress`` is called with the films that are counted and those to count, once for each change.
    """
    pool, files = _counters(dataset, units, workers, batch_size), _shared(bundle)
    tasks = [(unit, change) for unit in range(len(units)) for change in (None, *changes)]
    total = (1 + len(changes)) * sum(len(unit.rows) for unit in units)
    counted: dict[str | None, list[ChangedCounts]] = {None: [], **{change: [] for change in changes}}
    for change, films in pool.map_unordered(lambda counter, task: counter.count_changed.remote(*task, files), tasks):
        counted[change] += films
        on_progress(sum(len(each) for each in counted.values()), total)
    return {change: sorted(films, key=lambda film: film.image_id) for change, films in counted.items()}


def _counters(dataset: str, units: Sequence[Unit], workers: int, batch_size: int) -> ActorPool:
    workers = min(workers, len(units))
    return predicting_pool(FilmCounter, workers, dataset, units, batch_size, workers)


def _shared(bundle: Bundle) -> BundleFiles:
    # In a list, so that each call carries the reference and not the bundle.
    return [ray.put(to_files(bundle))]


def count_films(
    predictor: BatchPredictor, films: Films, unit: int, part: slice, levels: dict[str, Histogram]
) -> list[FilmCounts]:
    """SplitCounts of a part of a unit's films; their pixels are added to ``levels``."""
    classes_NHW, probabilities_NHW = predict_at_film_size(predictor, films.images_NHW[part])
    found_NHW, truth_NHW = classes_NHW == predictor.spec.infection, films.masks_NHW[part] > 0
    infection_N4, marks_NM = count(found_NHW, truth_NHW), mark(probabilities_NHW, found_NHW, truth_NHW)
    agreement_N = agreement(probabilities_NHW, found_NHW)
    lungs_N4 = None
    if films.lungs_NHW is not None:
        lungs_NHW = found_NHW | (classes_NHW == predictor.spec.classes.index(LUNG))
        lungs_N4 = count_lung(lungs_NHW, films.lungs_NHW[part] > 0, truth_NHW)
    labels = films.labels[part]
    for label in set(labels):
        members_N = np.array(labels) == label
        levels[label] = levels.get(label, 0) + count_levels(probabilities_NHW[members_N], truth_NHW[members_N])
    return [
        FilmCounts(
            image_id,
            labels[row],
            unit,
            part.start + row,
            infection_N4[row],
            None if lungs_N4 is None else lungs_N4[row],
            marks_NM[row],
            float(agreement_N[row]),
        )
        for row, image_id in enumerate(films.image_ids[part])
    ]


def count_changed_films(
    predictor: BatchPredictor, films: Films, part: slice, change: str | None
) -> list[ChangedCounts]:
    """ChangedCounts of a part of a unit's films."""
    image_ids, images_NHW = films.image_ids[part], films.images_NHW[part]
    if change is not None:
        pairs = zip(image_ids, images_NHW, strict=True)
        images_NHW = np.stack([change_film(change, image_HW, image_id) for image_id, image_HW in pairs])
    classes_NHW, probabilities_NHW = predict_at_film_size(predictor, images_NHW)
    spec = predictor.spec
    found_NHW = classes_NHW == spec.infection
    lungs_NHW = found_NHW | (classes_NHW == spec.classes.index(LUNG)) if LUNG in spec.classes else found_NHW
    counts_N4 = count(found_NHW, films.masks_NHW[part] > 0)
    outputs_NF = summarise_output(probabilities_NHW, found_NHW, lungs_NHW)
    return list(map(ChangedCounts, image_ids, films.labels[part], counts_N4, outputs_NF))


def predict_at_film_size(
    predictor: BatchPredictor, images_NHW: NDArray[np.uint8]
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Classes, and the infection's probability in 255ths, uint8 at the films' own size, whatever the model's is."""
    spec = predictor.spec
    if images_NHW.shape[1:] == (spec.input_size, spec.input_size):
        return predictor.predict_probabilities(images_NHW)
    standardised = [standardise(image_HW, spec.input_size, spec.resize) for image_HW in images_NHW]
    predicted = predictor.predict_probabilities(np.stack([square_SS for square_SS, _ in standardised]))
    classes_NHW, probabilities_NHW = (
        np.stack([restore_mask(each_SS, place) for each_SS, (_, place) in zip(squares_NSS, standardised, strict=True)])
        for squares_NSS in predicted
    )
    return classes_NHW, probabilities_NHW


def read_films(dataset: str, unit: Unit, classes: Sequence[str]) -> Films:
    """A unit's films, with lung masks where the model knows lungs: all 0 where the dataset has none of a film."""
    return read_unit(dataset, unit, with_lung=LUNG in classes, lung_needed=False)

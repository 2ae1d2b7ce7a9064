"""A bundle against the masks of a dataset: integer counts for every film, and the metrics that follow from them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import ray
import torch
from numpy.typing import NDArray
from ray.util import ActorPool

from covseg_ray.engine.source import Source
from covseg_ray.reports.film_result import FilmResult
from covseg_ray.segmentation.bundle import Bundle
from covseg_ray.segmentation.bundle_files import from_files, to_files
from covseg_ray.segmentation.metrics import Estimate, count, image_iou, summarise
from covseg_ray.segmentation.predictor import Predictor
from covseg_ray.storage.reading import Films, list_units


@dataclass(frozen=True)
class Evaluation:
    """``counts_N4`` are int64 true and false positives, false and true negatives of infection pixels: a row a film, in
    the order of ``image_ids``."""

    image_ids: tuple[str, ...]
    counts_N4: NDArray[np.int64]
    metrics: Mapping[str, Estimate]
    films: Sequence[FilmResult]

    @property
    def infected_ious(self) -> list[float]:
        """The IoU of each film that has infection."""
        infected = self.counts_N4[:, 0] + self.counts_N4[:, 2] > 0
        return [float(iou) for iou in image_iou(self.counts_N4[infected])]


class Counted(NamedTuple):
    """A film's counts, and where it is: its place in its unit."""

    image_id: str
    unit: int
    place: int
    counts_4: NDArray[np.int64]


class Counter:
    """Predicts the films of a unit and counts; one lives in each actor of the pool."""

    def __init__(self, source: Source, batch_size: int, workers: int) -> None:
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        if self.device == "cpu":
            torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // workers))
        self.source = source
        self.batch_size = batch_size
        self.predictor: Predictor | None = None

    def count(self, unit: int, files: Sequence[ray.ObjectRef[Mapping[str, bytes]]]) -> list[Counted]:
        """The counts of the films of one unit; ``files`` hold a reference to those of the bundle, read at first use."""
        if self.predictor is None:
            self.predictor = Predictor(from_files(ray.get(files[0])), self.device)
        films = self.source.films(unit)
        parts = []
        for start in range(0, len(films.image_ids), self.batch_size):
            stop = start + self.batch_size
            found_NHW = self.predictor.predict(films.images_NHW[start:stop]) == self.predictor.spec.infection
            parts.append(count(found_NHW, films.masks_NHW[start:stop] > 0))
        counts_N4 = np.concatenate(parts)
        return [
            Counted(image_id, unit, place, counts_4)
            for place, (image_id, counts_4) in enumerate(zip(films.image_ids, counts_N4, strict=True))
        ]


def evaluate(
    bundle: Bundle,
    dataset: str,
    split: str = "val",
    labels: Sequence[str] | None = None,
    workers: int = 1,
    batch_size: int = 32,
    pictures: int = 9,
) -> Evaluation:
    """Count every film of the split once, with ``workers`` actors, and draw the metrics' intervals."""
    source = Source(dataset, tuple(list_units(dataset, split, labels)), bundle.spec.classes)
    rows = count_films(source, bundle, workers, batch_size)
    image_ids = tuple(row.image_id for row in rows)
    counts_N4 = np.stack([row.counts_4 for row in rows])
    films = examples(bundle, source, rows, counts_N4, pictures)
    return Evaluation(image_ids, counts_N4, summarise(image_ids, counts_N4), films)


def count_films(source: Source, bundle: Bundle, workers: int, batch_size: int) -> list[Counted]:
    """Every film's counts, ordered by ``image_id``."""
    gpus = 1 if ray.cluster_resources().get("GPU", 0) >= workers else 0
    actor = ray.remote(num_cpus=1, num_gpus=gpus, max_restarts=3, max_task_retries=3)(Counter)
    pool = ActorPool([actor.remote(source, batch_size, workers) for _ in range(workers)])
    # In a list, so that the reference travels with each call and the bundle does not.
    files = [ray.put(to_files(bundle))]
    units = pool.map_unordered(lambda counter, unit: counter.count.remote(unit, files), list(range(len(source.units))))
    return sorted((row for rows in units for row in rows), key=lambda row: row.image_id)


def examples(
    bundle: Bundle, source: Source, rows: Sequence[Counted], counts_N4: NDArray[np.int64], number: int
) -> list[FilmResult]:
    """Films to show: of those with infection the best, the middle and the worst by IoU, a third each; of those without,
    the one with the most predicted pixels."""
    tp, fp, fn, _ = counts_N4.T
    infected = np.flatnonzero(tp + fn)
    ranked = infected[np.argsort(-image_iou(counts_N4[infected]), kind="stable")]
    third = max(1, number // 3)
    middle = max(0, (len(ranked) - third) // 2)
    alarms = np.flatnonzero((tp + fn == 0) & (fp > 0))
    largest_alarm = alarms[np.argsort(-fp[alarms], kind="stable")][:1]
    chosen = dict.fromkeys([*ranked[:third], *ranked[middle : middle + third], *ranked[-third:], *largest_alarm])
    predictor = Predictor(bundle)
    infection = bundle.spec.infection
    return [_show(predictor, infection, source.films(rows[i].unit), rows[i].place) for i in chosen]


def _show(predictor: Predictor, infection: int, films: Films, place: int) -> FilmResult:
    found_HW = (predictor.predict(films.images_NHW[place : place + 1])[0] == infection).astype(np.uint8)
    truth_HW = films.masks_NHW[place]
    union = int((found_HW | truth_HW).sum())
    return FilmResult(
        image_id=films.image_ids[place],
        label=films.labels[place],
        image_HW=films.images_NHW[place],
        truth_HW=truth_HW,
        predicted_HW=found_HW,
        iou=float((found_HW & truth_HW).sum() / union) if truth_HW.any() else None,
    )

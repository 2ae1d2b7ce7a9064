"""A bundle against the masks of a dataset: integer counts for every film, and the metrics that follow from them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray
import torch
from numpy.typing import NDArray

from covseg_ray.engine.stream import Source
from covseg_ray.reports.film_result import FilmResult
from covseg_ray.segmentation.bundle import Bundle, from_files, to_files
from covseg_ray.segmentation.metrics import Estimate, count, image_iou, summarise
from covseg_ray.segmentation.predictor import Predictor
from covseg_ray.storage.reading import Films, list_units

COUNTS = ("tp", "fp", "fn", "tn")


@dataclass(frozen=True)
class Evaluation:
    """``counts_N4`` are int64 true and false positives, false and true negatives of infection pixels, a row a film in the
    order of ``image_ids``."""

    image_ids: tuple[str, ...]
    counts_N4: NDArray[np.int64]
    metrics: Mapping[str, Estimate]
    films: Sequence[FilmResult]

    @property
    def infected_ious(self) -> list[float]:
        """The IoU of each film that has infection."""
        infected = self.counts_N4[:, 0] + self.counts_N4[:, 2] > 0
        return [float(iou) for iou in image_iou(self.counts_N4[infected])]


class Counter:
    """Predicts the films of a unit and counts; one lives in each actor of the pool."""

    def __init__(self, source: Source, files: ray.ObjectRef[dict[str, bytes]], batch_size: int, workers: int) -> None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        if device == "cpu":
            torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // workers))
        bundle = from_files(ray.get(files))
        self.source = source
        self.batch_size = batch_size
        self.infection = bundle.spec.infection
        self.predictor = Predictor(bundle, device)

    def __call__(self, unit: dict[str, NDArray[np.int64]]) -> dict[str, Any]:
        index = int(unit["unit"][0])
        films = self.source.films(index)
        parts = []
        for start in range(0, len(films.image_ids), self.batch_size):
            stop = start + self.batch_size
            found_NHW = self.predictor.predict(films.images_NHW[start:stop]) == self.infection
            truth_NHW = films.masks_NHW[start:stop] > 0
            parts.append(count(found_NHW, truth_NHW))
        counts_N4 = np.concatenate(parts)
        return {
            "image_id": np.array(films.image_ids),
            "unit": np.full(len(counts_N4), index),
            "place": np.arange(len(counts_N4)),
            **dict(zip(COUNTS, counts_N4.T, strict=True)),
        }


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
    image_ids = tuple(row["image_id"] for row in rows)
    counts_N4 = np.array([[row[name] for name in COUNTS] for row in rows], dtype=np.int64)
    films = examples(bundle, source, rows, counts_N4, pictures)
    return Evaluation(image_ids, counts_N4, summarise(image_ids, counts_N4), films)


def count_films(source: Source, bundle: Bundle, workers: int, batch_size: int) -> list[dict[str, Any]]:
    """A row a film, ordered by ``image_id``."""
    ray.data.DataContext.get_current().enable_progress_bars = False
    units = [{"unit": unit} for unit in range(len(source.units))]
    counted = ray.data.from_items(units, override_num_blocks=len(units)).map_batches(
        Counter,
        batch_size=1,
        fn_constructor_kwargs={
            "source": source,
            "files": ray.put(to_files(bundle)),
            "batch_size": batch_size,
            "workers": workers,
        },
        compute=ray.data.ActorPoolStrategy(size=workers),
        num_cpus=1,
        num_gpus=1 if ray.cluster_resources().get("GPU", 0) >= workers else 0,
    )
    rows: list[dict[str, Any]] = counted.take_all()
    return sorted(rows, key=lambda row: str(row["image_id"]))


def examples(
    bundle: Bundle, source: Source, rows: Sequence[Mapping[str, Any]], counts_N4: NDArray[np.int64], number: int
) -> list[FilmResult]:
    """Films to show: of those with infection the best, the middle and the worst by IoU, a third each; of those without, the
    one with the most predicted pixels."""
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
    return [_show(predictor, infection, source.films(rows[i]["unit"]), rows[i]["place"]) for i in chosen]


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
        iou=float((found_HW & truth_HW).sum() / union) if union else None,
    )

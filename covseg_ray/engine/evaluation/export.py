"""Export a model for other programs, or in 8-bit integers, and check that it stays as accurate."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from covseg_ray.engine.evaluation.counts import FilmCounts, columns, count_films, read_films
from covseg_ray.errors import CovsegError, DatasetError, ModelError
from covseg_ray.radiograph.geometry import standardise
from covseg_ray.segmentation.evaluation.metrics import image_iou, summarise
from covseg_ray.segmentation.evaluation.reliability import fit
from covseg_ray.segmentation.inference.predictor import BatchPredictor, films_to_classes
from covseg_ray.segmentation.inference.quantise import quantise
from covseg_ray.segmentation.network.bundle import Bundle
from covseg_ray.segmentation.network.graph import Graph, translate
from covseg_ray.storage.datasets.read import Subset, read_info, read_unit

GATE = 0.002
CALIBRATE, CHECK = "train", "val"
CALIBRATION_FILMS = 300
GATED = "iou_pooled"
HOW = "in this process, on split {split} of {dataset}; 95 % intervals from 1,000 bootstrap resamples of the films"

OnProgress = Callable[[str, int, int], None]  # what is measured, films done, all films


@dataclass(frozen=True)
class Compared:
    """``iou_pooled`` of the model and of its export on the same films."""

    before: float
    after: float


def in_int8(bundle: Bundle, dataset: str, on_progress: OnProgress) -> tuple[Bundle, Compared]:
    """The model in 8-bit integers, its ranges from films of split train, with its metrics and its curve of the expected
    IoU on split val.

    Raises:
        CovsegError: it loses more than ``GATE`` of ``iou_pooled`` there.
        UsageError: it is an 8-bit model already, or a package is not installed.
    """
    films_NSS = calibration_films(bundle, dataset)
    made = quantise(bundle, films_NSS, read_info(dataset).digest)
    compared, counted = check_accuracy(bundle, made, dataset, on_progress)
    image_ids, counts_N4, lungs_N4 = columns(counted)
    about = {
        "metrics": summarise(image_ids, counts_N4, lungs_N4),
        "metrics_how": HOW.format(split=CHECK, dataset=dataset),
        "expected_iou": fit(np.array([film.agreement for film in counted]), image_iou(counts_N4)),
    }
    spec = made.spec.model_copy(update=about)
    return Bundle(spec, made.state, made.graph), compared


def in_float(
    bundle: Bundle, engine: str, dataset: str | None, on_progress: OnProgress
) -> tuple[Graph, Compared | None]:
    """The model as a graph of ``engine`` for one film at a time; compared with the model on films, where given.

    Raises:
        CovsegError: it loses more than ``GATE`` of ``iou_pooled`` on split val.
        ModelError: the model is one of 8-bit integers.
    """
    if bundle.graph is not None:
        raise ModelError("an 8-bit model is exported already: its files are below openvino/int8")
    side = bundle.spec.input_size
    graph = translate(engine, films_to_classes(bundle), (1, side, side))
    if dataset is None:
        return graph, None
    compared, _ = check_accuracy(bundle, replace(bundle, graph=graph), dataset, on_progress)
    return graph, compared


def calibration_films(bundle: Bundle, dataset: str) -> NDArray[np.uint8]:
    """At most ``CALIBRATION_FILMS`` films of split train, evenly from all its units, at the model's size."""
    units = Subset(dataset, CALIBRATE).units()
    share = -(-CALIBRATION_FILMS // len(units))
    chosen = [replace(unit, rows=unit.rows[:: max(1, len(unit.rows) // share)][:share]) for unit in units]
    films = [film_HW for unit in chosen for film_HW in read_unit(dataset, unit).images_NHW]
    spec = bundle.spec
    return np.stack([standardise(film_HW, spec.input_size, spec.resize)[0] for film_HW in films[:CALIBRATION_FILMS]])


def check_accuracy(
    bundle: Bundle, exported: Bundle, dataset: str, on_progress: OnProgress
) -> tuple[Compared, Sequence[FilmCounts]]:
    """Measure both on the films of split val; the counts returned are those of the export."""
    counts = [
        count_here(each, dataset, name, on_progress) for each, name in ((bundle, "the model"), (exported, "the export"))
    ]
    before, after = (summarise(*columns(counted)) for counted in counts)
    if GATED not in before:
        raise DatasetError(
            f"{dataset}: no film of split {CHECK} has infection, so the export cannot be compared with the model"
        )
    compared = Compared(before[GATED].value, after[GATED].value)
    if compared.after < compared.before - GATE:
        raise CovsegError(
            f"export refused: {GATED} falls from {compared.before:.4f} to {compared.after:.4f} on split {CHECK} of "
            f"{dataset}, by more than {GATE}; use the model as it is"
        )
    return compared, counts[1]


def count_here(bundle: Bundle, dataset: str, name: str, on_progress: OnProgress) -> list[FilmCounts]:
    """A model's counts of each film of split val, computed in this process."""
    predictor, units = BatchPredictor(bundle), Subset(dataset, CHECK).units()
    counted: list[FilmCounts] = []
    for number, unit in enumerate(units):
        films = read_films(dataset, unit, bundle.spec.classes)
        counted += count_films(predictor, films, number, slice(0, len(films.image_ids)), {})
        on_progress(name, len(counted), sum(len(unit.rows) for unit in units))
    return counted

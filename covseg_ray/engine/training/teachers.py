"""A run's teachers: bundles whose class probabilities it learns beside the masks (knowledge distillation).

Their maps are computed once, before training, on the cluster, and stored in the run's folder: a file for each unit of
the training films, which the loader finds by the unit's number.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace

import ray
import torch

from covseg_ray.config.train import Job
from covseg_ray.engine.bundle_io import load_bundle
from covseg_ray.engine.session import cores, predicting_pool
from covseg_ray.engine.training.split import Source
from covseg_ray.errors import UsageError
from covseg_ray.segmentation.inference.class_probabilities import MeanProbabilities
from covseg_ray.segmentation.inference.predictor import local_device
from covseg_ray.segmentation.network.bundle import Bundle
from covseg_ray.segmentation.network.bundle_files import from_files, to_files
from covseg_ray.segmentation.network.preprocess import PREPROCESS_VERSION
from covseg_ray.storage.datasets.read import read_info, read_unit
from covseg_ray.storage.filesystem import join
from covseg_ray.storage.runs.teacher_maps import missing_maps, write_maps

MAPS = "teachers"  # a run's folder of maps

OnMaps = Callable[[int, int], None]  # films that have maps, all films


def load_teachers(job: Job) -> tuple[Bundle, ...]:
    """The bundles of ``model.teachers``. Raises UsageError for one that does not fit the job and its films."""
    return tuple(_loaded(uri, job) for uri in job.model.teachers)


def _loaded(uri: str, job: Job) -> Bundle:
    bundle, info = load_bundle(uri), read_info(job.data.dataset)
    if bundle.graph is not None:
        raise UsageError(f"model.teachers: {uri} is an 8-bit model; take the model that it was exported from")
    pairs = {
        "classes": ("the job", list(bundle.spec.classes), list(job.model.classes)),
        "input_size": ("the dataset", bundle.spec.input_size, info.size),
        "resize": ("the dataset", bundle.spec.resize, info.resize),
    }
    for key, (other, there, here) in pairs.items():
        if there != here:
            change = "set model.classes to what the bundle has" if key == "classes" else "pack the films as it wants"
            raise UsageError(
                f"model.teachers: the bundle {uri} has {key} {there!r} and {other} {here!r}; {change}, or choose "
                "another teacher"
            )
    return bundle


def taught(source: Source, teachers: Sequence[Bundle], folder: str, workers: int, on_maps: OnMaps) -> Source:
    """The source with the maps of its teachers, if it has any: those missing in ``folder`` are computed first, with at
    most ``workers`` actors at a time."""
    if not teachers:
        return source
    source = replace(source, maps=join(folder, _digest(source, teachers)))
    films = [len(unit.rows) for unit in source.units]
    missing = missing_maps(source.maps, len(films))
    done = sum(films) - sum(films[unit] for unit in missing)
    on_maps(done, sum(films))
    if missing:
        workers = min(workers, len(missing))
        files = [ray.put(to_files(teacher)) for teacher in teachers]
        pool = predicting_pool(MapWriter, workers, source, files, workers)
        for unit in pool.map_unordered(lambda writer, unit: writer.write.remote(unit), missing):
            done += films[unit]
            on_maps(done, sum(films))
    return source


class MapWriter:
    """Computes and writes the maps of a unit's films; one lives in each actor of the pool."""

    def __init__(self, source: Source, files: Sequence[ray.ObjectRef[Mapping[str, bytes]]], workers: int) -> None:
        device = local_device()
        if device == "cpu":
            torch.set_num_threads(max(1, cores() // workers))
        self.source = source
        self.teachers = MeanProbabilities([from_files(ray.get(each)) for each in files], device)

    def write(self, unit: int) -> int:
        films = read_unit(self.source.dataset, self.source.units[unit])
        write_maps(self.source.maps, unit, films.image_ids, self.teachers.predict(films.images_NHW))
        return unit


def _digest(source: Source, teachers: Sequence[Bundle]) -> str:
    """16 hexadecimal digits of a SHA-256 over all that the maps depend on: films, their order, and teachers."""
    models, units = [teacher.model_id for teacher in teachers], [asdict(unit) for unit in source.units]
    parts = [read_info(source.dataset).digest, units, models, PREPROCESS_VERSION]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]

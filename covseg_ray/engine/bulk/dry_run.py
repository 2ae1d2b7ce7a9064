"""Estimate what a bulk run would do here, and how long it would take."""

from __future__ import annotations

import os
import time
from collections import Counter
from dataclasses import dataclass

import numpy as np

from covseg_ray.engine.bulk.monitor import Progress
from covseg_ray.engine.bulk.run import Request
from covseg_ray.engine.bundle_io import load_bundle
from covseg_ray.segmentation.inference.predictor import local_predictor
from covseg_ray.storage.archives.members import check_member
from covseg_ray.storage.archives.read import list_members

TIMED_FILMS = 32


@dataclass(frozen=True)
class Preview:
    """``seconds`` is the model's time alone on this whole machine; ``refused`` counts by reason the inputs that listing
    already rejects; ``bytes`` adds the sizes that the listing knows."""

    inputs: int
    kinds: dict[str, int]
    refused: dict[str, int]
    bytes: int
    engine: str
    films_per_second: float
    seconds: float


def preview(request: Request, progress: Progress) -> Preview:
    """List the source and time the model on noise. Writes nothing."""
    bundle = load_bundle(request.model)
    kinds, refused, size, inputs = Counter[str](), Counter[str](), 0, 0
    for inputs, member in enumerate(list_members(request.source), start=1):
        kinds[member.kind] += 1
        size += max(member.size, 0)
        if rejected := check_member(member):
            refused[rejected.reason] += 1
        if inputs % 1000 == 0:
            progress.listed(inputs)
    predictor = local_predictor(bundle, request.engine, threads=os.cpu_count() or 1)
    side = bundle.spec.input_size
    noise_NHW = np.random.default_rng(0).integers(0, 256, (TIMED_FILMS, side, side), dtype=np.uint8)
    predictor.predict_with_expected_iou(noise_NHW[: predictor.chunk])
    start = time.perf_counter()
    predictor.predict_with_expected_iou(noise_NHW)
    speed = TIMED_FILMS / (time.perf_counter() - start)
    films = inputs - refused.total()
    return Preview(inputs, dict(kinds), dict(refused), size, predictor.engine, speed, films / speed)

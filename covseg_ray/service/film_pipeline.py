"""One film from bytes to masks: decode in a child process, predict, resize the classes to the film's own size.

What takes tenths of a second on a large film runs in a thread, so that the event loop is free for other requests.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from asyncio import to_thread
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from covseg_ray.radiograph.decoder_process import DecodingChild
from covseg_ray.radiograph.film import Limits, Radiograph, Rejected
from covseg_ray.radiograph.findings import class_masks
from covseg_ray.radiograph.formats import is_dicom
from covseg_ray.radiograph.frontal_check import frontal, reject_unlike
from covseg_ray.radiograph.geometry import Placement, standardise
from covseg_ray.service.backend import UNAVAILABLE_SECONDS, Backend, InputSpec, Settings
from covseg_ray.service.errors import BusyServerError, RequestError
from covseg_ray.service.schema import ModelInfo

# While one bundle replaces another, both answer: the film is resized for each model that answers, at most so many.
MODEL_CHANGES = 4
OVERLOADED_SECONDS = 1.0

Unlike: TypeAlias = Literal["mask", "reject"]
Resized: TypeAlias = tuple[NDArray[np.uint8], Placement]


@dataclass(frozen=True)
class SegmentedFilm:
    """A film and its masks at its own size, uint8 [H, W] of 0 and 1, by the names of `class_masks`. ``frontal`` is its
    similarity to frontal chest films, as `covseg_ray.radiograph.frontal_check.frontal` computes it."""

    film: Radiograph
    masks: dict[str, NDArray[np.uint8]]
    expected_iou: float | None
    frontal: float
    model: ModelInfo
    sha256: str
    is_dicom: bool
    decode_ms: float
    predict_ms: float


class DecoderPool:
    """Decoder processes, each with one film at a time."""

    def __init__(self, settings: Settings) -> None:
        limits = Limits(settings.max_body_bytes, settings.max_pixels)
        self._children = [DecodingChild(limits, settings.decode_seconds) for _ in range(settings.decoders)]
        self._free: SimpleQueue[DecodingChild] = SimpleQueue()
        for child in self._children:
            self._free.put(child)
        self._threads = ThreadPoolExecutor(settings.decoders)

    async def decode(self, data: bytes) -> Radiograph | Rejected:
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._decode, data)

    def _decode(self, data: bytes) -> Radiograph | Rejected:
        child = self._free.get()
        try:
            return child.decode(data)
        finally:
            self._free.put(child)

    def start(self) -> None:
        """Start every process now: otherwise the first film of each waits a second for it."""
        for child in self._children:
            child.decode(b"GIF")

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)
        for child in self._children:
            child.close()


class FilmPipeline:
    """The decoders and models of one endpoint."""

    def __init__(self, backend: Backend, settings: Settings) -> None:
        self.decoders = DecoderPool(settings)
        self._backend = backend
        self._max_requests, self._slots = settings.max_requests, asyncio.Semaphore(settings.max_requests)

    @asynccontextmanager
    async def admit(self) -> AsyncIterator[None]:
        """Count a request with films. Raises 503 before any of its body is read if too many are in flight: decoding a
        film that is refused afterwards would slow down the others."""
        if self._slots.locked():
            raise BusyServerError(
                "overloaded", f"{self._max_requests} requests are in flight; try again", OVERLOADED_SECONDS
            )
        async with self._slots:
            yield

    async def models(self) -> dict[str, ModelInfo]:
        """Raises 503 if a model is not ready."""
        return dict(await self._backend.models())

    async def model(self, name: str | None) -> ModelInfo:
        """The model of that name, the first without one. Raises 404 for an unknown name."""
        models = await self.models()
        wanted = name if name is not None else next(iter(models))
        if wanted not in models:
            raise RequestError(404, "unknown-model", f"no model of that name here: {', '.join(models)}")
        return models[wanted]

    async def segment(self, data: bytes, model_name: str | None, unlike: Unlike = "mask") -> SegmentedFilm | Rejected:
        """Rejected for a film that cannot be used or, where ``unlike`` says so, that fails the frontal check. Raises
        RequestError for any other failure."""
        start = time.perf_counter()
        film = await self.decoders.decode(data)
        decoded = time.perf_counter()
        if isinstance(film, Rejected):
            return film
        classes_SS, expected_iou, (square_SS, placement), model = await self._predict(film, model_name)
        predicted = time.perf_counter()
        likeness = await to_thread(frontal, square_SS, placement)
        if unlike == "reject" and (rejected := reject_unlike(likeness)):
            return rejected
        masks = await to_thread(class_masks, classes_SS, placement, model.classes)
        return SegmentedFilm(
            film,
            masks,
            expected_iou,
            likeness,
            model,
            hashlib.sha256(data).hexdigest(),
            is_dicom(data),
            decode_ms=1000 * (decoded - start),
            predict_ms=1000 * (predicted - decoded),
        )

    async def _predict(
        self, film: Radiograph, name: str | None
    ) -> tuple[NDArray[np.uint8], float | None, Resized, ModelInfo]:
        """The classes, uint8 [S, S], the expected IoU, the square that they were predicted on, and the model that
        answered."""
        model = await self.model(name)
        resized: dict[InputSpec, Resized] = {}
        for _ in range(MODEL_CHANGES):
            resized[InputSpec.of(model)] = await to_thread(standardise, film.pixels, model.input_size, model.resize)
            inputs = {spec: square_SS for spec, (square_SS, _) in resized.items()}
            prediction = await self._backend.predict(model.name, inputs)
            model = prediction.model
            if prediction.classes_SS is not None:
                return prediction.classes_SS, prediction.expected_iou, resized[InputSpec.of(model)], model
        raise BusyServerError("model-changing", "the model is being replaced; try again", UNAVAILABLE_SECONDS)

"""One film's bytes to what was found on it: decoded in a child process, predicted, carried back to its own size."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from queue import SimpleQueue
from typing import ParamSpec, TypeVar

import numpy as np
from numpy.typing import NDArray

from covseg_ray.radiograph.decoder_process import DecodingChild
from covseg_ray.radiograph.film import Radiograph, Rejected
from covseg_ray.radiograph.findings import class_masks
from covseg_ray.radiograph.formats import is_dicom
from covseg_ray.radiograph.frontal_check import frontal
from covseg_ray.radiograph.geometry import Placement, standardise
from covseg_ray.service.models import ModelInfo, OverloadedError, Predict, Square, UnavailableError
from covseg_ray.service.refusals import RefusedRequestError, busy
from covseg_ray.service.settings import Settings

# While one bundle replaces another both answer. A film is laid for each that it meets, and any of them takes it then.
BUNDLES = 4
UNAVAILABLE_SECONDS = 2.0
OVERLOADED_SECONDS = 1.0

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True)
class Outlined:
    """A film and its masks at its own size, uint8 [H, W] of 0 and 1, as `class_masks` names them; ``frontal`` is how
    much it is like a frontal chest film, as `covseg_ray.radiograph.frontal_check.frontal` says."""

    film: Radiograph
    masks: dict[str, NDArray[np.uint8]]
    frontal: float
    model: ModelInfo
    sha256: str
    is_dicom: bool
    milliseconds: dict[str, float]


class Decoders:
    """A few decoding children: as many films are decoded at once, and the others wait for their turn."""

    def __init__(self, settings: Settings) -> None:
        self._children = [
            DecodingChild(settings.film_limits, settings.decode_seconds) for _ in range(settings.decoders)
        ]
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
        """Let every child come up now: the first film of each would wait a second for it."""
        for child in self._children:
            child.decode(b"GIF")

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)
        for child in self._children:
            child.close()


class Outliner:
    """Films of one endpoint: its decoders and its models."""

    def __init__(self, predict: Predict, settings: Settings) -> None:
        self.predict = predict
        self.decoders = Decoders(settings)
        self._most, self._admitted = settings.max_requests, 0

    @contextmanager
    def admitted(self) -> Iterator[None]:
        """Hold a place for a request with films. Raises 503 at once, before any of its film is read, where all are
        taken: to decode what is then refused would slow down the others."""
        if self._admitted >= self._most:
            raise busy("overloaded", f"{self._most} requests are under way already; try again", OVERLOADED_SECONDS)
        self._admitted += 1
        try:
            yield
        finally:
            self._admitted -= 1

    async def models(self) -> dict[str, ModelInfo]:
        """Raises 503 where no model is ready."""
        try:
            return dict(await self.predict.models())
        except UnavailableError as error:
            raise busy("no-model", f"{error}", UNAVAILABLE_SECONDS) from None

    async def model(self, name: str | None) -> ModelInfo:
        """The model of that name, or the first. Raises 404 for an unknown name."""
        models = await self.models()
        wanted = name if name is not None else next(iter(models))
        if wanted not in models:
            raise RefusedRequestError(404, "unknown-model", f"no model of that name here: {', '.join(models)}")
        return models[wanted]

    async def outline(self, data: bytes, name: str | None) -> Outlined | Rejected:
        """Raises RefusedRequestError where there is no answer; a film that cannot be used is an answer."""
        start = time.perf_counter()
        film = await self.decoders.decode(data)
        decoded = time.perf_counter()
        if isinstance(film, Rejected):
            return film
        classes_SS, placement, likeness, model = await self._classes(film, name)
        predicted = time.perf_counter()
        masks = await in_thread(class_masks, classes_SS, placement, model.classes)
        milliseconds = {"decode": 1000 * (decoded - start), "predict": 1000 * (predicted - decoded)}
        sha256 = hashlib.sha256(data).hexdigest()
        return Outlined(film, masks, likeness, model, sha256, is_dicom(data), milliseconds)

    async def _classes(
        self, film: Radiograph, name: str | None
    ) -> tuple[NDArray[np.uint8], Placement, float, ModelInfo]:
        model = await self.model(name)
        laid: dict[Square, _Laid] = {}
        for _ in range(BUNDLES):
            laid[model.square] = await in_thread(_lay, film, model.square)
            try:
                prediction = await self.predict(model.name, {square: each.square_SS for square, each in laid.items()})
            except OverloadedError as error:
                raise busy("overloaded", f"{error}", error.retry_after) from None
            except UnavailableError as error:
                raise busy("no-model", f"{error}", UNAVAILABLE_SECONDS) from None
            model = prediction.model
            if prediction.classes_SS is not None:
                used = laid[model.square]
                return prediction.classes_SS, used.placement, used.frontal, model
        raise busy("model-changing", "the model is being replaced; try again", UNAVAILABLE_SECONDS)


@dataclass(frozen=True)
class _Laid:
    """A film in a model's square, uint8 [S, S], and how much that is like a frontal chest film."""

    square_SS: NDArray[np.uint8]
    placement: Placement
    frontal: float


def _lay(film: Radiograph, square: Square) -> _Laid:
    square_SS, placement = standardise(film.pixels, square.size, square.resize)
    return _Laid(square_SS, placement, frontal(square_SS, placement))


async def in_thread(function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """A large film takes tenths of a second to resize or to encode: other requests go on meanwhile."""
    return await asyncio.to_thread(function, *args, **kwargs)

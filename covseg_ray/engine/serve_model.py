"""A model behind the endpoint: one replica holds one bundle, and takes films in batches."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray
from ray import serve

from covseg_ray import __version__
from covseg_ray.engine.bundles import load_bundle
from covseg_ray.engine.metrics import batch_sizes
from covseg_ray.engine.runtime import keep_replica_to_loopback
from covseg_ray.errors import ModelError
from covseg_ray.segmentation.bundle import Bundle
from covseg_ray.segmentation.predictor import Predictor
from covseg_ray.segmentation.preprocess import PREPROCESS_VERSION
from covseg_ray.service.models import ModelInfo, Prediction, Squares

BATCH_WAIT_SECONDS = 0.005


class Segmenter:
    """One replica: a model, loaded once and warm before the first request.

    On a CPU films are computed one after the other, each on ``cores``, or on those of ``alone`` where no other is under
    way; on a GPU in batches of at most ``batch``.
    """

    def __init__(
        self, name: str, uri: str, model_id: str, engine: str, device: str, batch: int, cores: int, alone: int
    ) -> None:
        keep_replica_to_loopback()
        bundle = load_bundle(uri)
        if bundle.model_id != model_id:
            raise ModelError(f"{uri}: the bundle was changed since it was checked; deploy again")
        self._info = describe(name, bundle)
        self._threads = (cores, alone) if device == "cpu" else None
        self._predictor = Predictor(bundle, device, engine=engine, threads=cores if device == "cpu" else None)
        # Of one thread: the number that torch shares its work among is the calling thread's own.
        self._computing = ThreadPoolExecutor(1, "predict")
        size = bundle.spec.input_size
        self._computing.submit(self._compute, np.zeros((1, size, size), np.uint8), True).result()
        self._sizes = batch_sizes(name)
        self._batching = serve.batch(max_batch_size=batch, batch_wait_timeout_s=BATCH_WAIT_SECONDS)(self._in_batch)

    def info(self) -> ModelInfo:
        return self._info

    async def predict(self, squares: Squares, alone: bool) -> Prediction:
        square_SS = squares.get(self._info.square)
        if square_SS is None:
            return Prediction(None, self._info)
        if self._threads is None:
            return Prediction(await self._batching(square_SS), self._info)
        return Prediction((await self._find(square_SS[None], alone))[0], self._info)

    async def _in_batch(self, squares: list[NDArray[np.uint8]]) -> list[NDArray[np.uint8]]:
        return list(await self._find(np.stack(squares), False))

    async def _find(self, squares_NSS: NDArray[np.uint8], alone: bool) -> NDArray[np.uint8]:
        self._sizes.observe(len(squares_NSS))
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._computing, self._compute, squares_NSS, alone)

    def _compute(self, squares_NSS: NDArray[np.uint8], alone: bool) -> NDArray[np.uint8]:
        if self._threads is not None:
            torch.set_num_threads(self._threads[alone])
        return self._predictor.predict(squares_NSS)


def describe(name: str, bundle: Bundle) -> ModelInfo:
    spec = bundle.spec
    return ModelInfo(
        name=name,
        model_id=bundle.model_id,
        classes=spec.classes,
        input_size=spec.input_size,
        resize=spec.resize,
        architecture=spec.architecture,
        encoder=spec.encoder,
        preprocess_version=PREPROCESS_VERSION,
        version=__version__,
    )

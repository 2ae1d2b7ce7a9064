"""The endpoint's model deployment: one replica holds one bundle and predicts films in batches."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import numpy as np
from numpy.typing import NDArray
from ray import serve

from covseg_ray import __version__
from covseg_ray.engine.bundle_io import load_bundle
from covseg_ray.engine.session import keep_replica_to_loopback
from covseg_ray.engine.telemetry import batch_sizes
from covseg_ray.errors import ModelError
from covseg_ray.segmentation.inference.predictor import BatchPredictor
from covseg_ray.segmentation.network.bundle import Bundle
from covseg_ray.segmentation.network.preprocess import PREPROCESS_VERSION
from covseg_ray.service.backend import InputSpec, ModelInputs, Prediction
from covseg_ray.service.schema import ModelInfo

BATCH_WAIT_SECONDS = 0.005


class ModelReplica:
    """One replica: a model, loaded once and warm before the first request."""

    def __init__(self, name: str, uri: str, model_id: str, engine: str, device: str, batch: int, cores: int) -> None:
        keep_replica_to_loopback()
        bundle = load_bundle(uri)
        if bundle.model_id != model_id:
            raise ModelError(f"{uri}: the bundle has changed since it was checked; deploy again")
        self._info = describe(name, bundle)
        threads = cores if device == "cpu" else None
        self._predictor = BatchPredictor(bundle, device, engine=engine, threads=threads)
        size = bundle.spec.input_size
        self._predictor.predict(np.zeros((1, size, size), np.uint8))
        self._sizes = batch_sizes(name)
        batching = serve.batch(max_batch_size=batch, batch_wait_timeout_s=BATCH_WAIT_SECONDS)
        self._predict_one = batching(self._predict_batch)

    def info(self) -> ModelInfo:
        return self._info

    async def predict(self, inputs: ModelInputs) -> AsyncIterator[Prediction]:
        """A stream of one prediction."""
        square_SS = inputs.get(InputSpec.of(self._info))
        yield Prediction(None if square_SS is None else await self._predict_one(square_SS), self._info)

    async def _predict_batch(self, squares: list[NDArray[np.uint8]]) -> list[NDArray[np.uint8]]:
        self._sizes.observe(len(squares))
        return list(await asyncio.to_thread(self._predictor.predict, np.stack(squares)))


def describe(name: str, bundle: Bundle) -> ModelInfo:
    """What the endpoint says of a bundle that it serves under ``name``."""
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

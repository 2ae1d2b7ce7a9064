"""The endpoint's model deployment: one replica holds one bundle and predicts films in batches."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import numpy as np
from numpy.typing import NDArray
from ray import serve

from covseg_ray.engine.bundle_io import load_bundle, model_info
from covseg_ray.engine.session import keep_replica_to_loopback
from covseg_ray.engine.telemetry import batch_sizes
from covseg_ray.errors import ModelError
from covseg_ray.segmentation.inference.predictor import BatchPredictor
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
        self._info = model_info(name, bundle)
        threads = cores if device == "cpu" else None
        self._predictor = BatchPredictor(bundle, device, engine=engine, threads=threads)
        size = bundle.spec.input_size
        self._predictor.predict_with_expected_iou(np.zeros((1, size, size), np.uint8))
        self._sizes = batch_sizes(name)
        batching = serve.batch(max_batch_size=batch, batch_wait_timeout_s=BATCH_WAIT_SECONDS)
        self._predict_one = batching(self._predict_batch)

    def info(self) -> ModelInfo:
        return self._info

    async def predict(self, inputs: ModelInputs) -> AsyncIterator[Prediction]:
        """A stream of one prediction."""
        square_SS = inputs.get(InputSpec.of(self._info))
        yield Prediction(None, self._info) if square_SS is None else await self._predict_one(square_SS)

    async def _predict_batch(self, squares: list[NDArray[np.uint8]]) -> list[Prediction]:
        self._sizes.observe(len(squares))
        found = await asyncio.to_thread(self._predictor.predict_with_expected_iou, np.stack(squares))
        return [Prediction(classes_SS, self._info, expected) for classes_SS, expected in zip(*found, strict=True)]

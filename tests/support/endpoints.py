"""An endpoint in this process, with a real model and no Ray."""

from __future__ import annotations

import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import anyio
import uvicorn

from covseg_ray.engine.bundle_io import model_info
from covseg_ray.segmentation.inference.predictor import BatchPredictor
from covseg_ray.segmentation.network.bundle import Bundle
from covseg_ray.service.app import create_app
from covseg_ray.service.backend import InputSpec, ModelInputs, Prediction, Settings
from covseg_ray.service.schema import ModelInfo


class InProcess:
    """Predicts with a bundle, one film at a time; ``fails`` are raised first, one a call."""

    def __init__(self, bundle: Bundle) -> None:
        self._predictor, self._info = BatchPredictor(bundle), model_info("default", bundle)
        self.fails: list[Exception] = []
        self.calls = 0

    async def models(self) -> Mapping[str, ModelInfo]:
        return {self._info.name: self._info}

    async def predict(self, name: str, inputs: ModelInputs) -> Prediction:
        self.calls += 1
        if self.fails:
            raise self.fails.pop(0)
        square_SS = inputs[InputSpec.of(self._info)]
        classes_NSS, expected = await anyio.to_thread.run_sync(
            self._predictor.predict_with_expected_iou, square_SS[None]
        )
        return Prediction(classes_NSS[0], self._info, expected[0])


@dataclass
class Counts:
    """What a monitoring system would have received."""

    requests: list[tuple[str, int]] = field(default_factory=list)
    reasons: Counter[str] = field(default_factory=Counter)
    fractions: list[float] = field(default_factory=list)

    def request(self, route: str, status: int, seconds: float) -> None:
        assert seconds >= 0
        self.requests.append((route, status))

    def rejected(self, reason: str) -> None:
        self.reasons[reason] += 1

    def infection(self, fraction: float) -> None:
        self.fractions.append(fraction)


@contextmanager
def served(predict: InProcess, settings: Settings) -> Iterator[str]:
    """The endpoint on a port of its own, and its URL."""
    with socket.socket() as ours:
        ours.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(create_app(predict, settings, Counts()), log_level="error"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [ours]}, daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.02)
        yield f"http://127.0.0.1:{ours.getsockname()[1]}"
        server.should_exit = True
        thread.join(20)

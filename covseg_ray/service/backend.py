"""What the endpoint is made with: the backend that runs the models, and the limits of its requests."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from covseg_ray.radiograph.geometry import Resize
from covseg_ray.service.errors import BusyServerError
from covseg_ray.service.schema import ModelInfo

UNAVAILABLE_SECONDS = 2.0


@dataclass(frozen=True)
class InputSpec:
    """The square that a model takes: pixels along a side, and the rule that resizes a film to it."""

    size: int
    resize: Resize

    @classmethod
    def of(cls, model: ModelInfo) -> InputSpec:
        return cls(model.input_size, model.resize)


# One film, uint8 [S, S], resized for each model that may answer.
ModelInputs: TypeAlias = Mapping[InputSpec, NDArray[np.uint8]]


@dataclass(frozen=True)
class Prediction:
    """Classes of a film, uint8 [S, S], the model that predicted them, and the expected IoU, None if the model has no
    curve for it. ``classes_SS`` is None if the inputs do not hold the film as that model takes it: another bundle has
    replaced the requested one."""

    classes_SS: NDArray[np.uint8] | None
    model: ModelInfo
    expected_iou: float | None = None


class Backend(Protocol):
    """Runs models; the first of ``models()`` is the default."""

    async def models(self) -> Mapping[str, ModelInfo]:
        """Every model, by name. Raises UnavailableError while one is not ready."""

    async def predict(self, name: str, inputs: ModelInputs) -> Prediction:
        """Predict one film by the model of that name. Raises OverloadedError or UnavailableError."""


class OverloadedError(BusyServerError):
    """Too many films are queued; retry after ``retry_after`` seconds."""

    def __init__(self, retry_after: float) -> None:
        super().__init__("overloaded", f"too many films are queued; try again in {retry_after:g} s", retry_after)


class UnavailableError(BusyServerError):
    """No model is ready to answer."""

    def __init__(self, detail: str) -> None:
        super().__init__("no-model", detail, UNAVAILABLE_SECONDS)


@dataclass(frozen=True)
class Settings:
    """Limits of one request; ``max_requests`` with films may be in flight at a time.

    ``keys_file`` holds one API key per line. Without it, and without keys in the environment, only callers on the same
    machine are answered.
    """

    max_body_bytes: int = 256 * 2**20
    body_seconds: float = 30.0
    max_films: int = 64
    max_requests: int = 64
    max_pixels: int = 100_000_000
    decode_seconds: float = 20.0
    decoders: int = 2
    keys_file: str | None = None

"""What the endpoint asks of whoever runs the models."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from covseg_ray.radiograph.geometry import Resize


@dataclass(frozen=True)
class ModelInfo:
    """One model that is served: its name in this endpoint, and what its bundle says of it."""

    name: str
    model_id: str
    classes: tuple[str, ...]
    input_size: int
    resize: Resize
    architecture: str
    encoder: str
    preprocess_version: str
    version: str


@dataclass(frozen=True)
class Prediction:
    """Classes of a film, uint8 [S, S], and the model that gave them. None where the film does not fit that model's
    square: another bundle has taken the asked one's place."""

    classes_SS: NDArray[np.uint8] | None
    model: ModelInfo


class Predict(Protocol):
    """Runs models; the first of ``models()`` is the default."""

    async def models(self) -> Mapping[str, ModelInfo]:
        """Every model that is ready, by name. Raises UnavailableError while one is not."""

    async def __call__(self, square_SS: NDArray[np.uint8], model: ModelInfo) -> Prediction:
        """For a film laid into the model's square, uint8 [S, S]. Raises OverloadedError or UnavailableError."""


class OverloadedError(Exception):
    """Too many films wait already; worth another try after so many seconds."""

    def __init__(self, retry_after: float) -> None:
        super().__init__(f"too many films wait already; try again in {retry_after:g} s")
        self.retry_after = retry_after


class UnavailableError(Exception):
    """No model is ready to answer."""

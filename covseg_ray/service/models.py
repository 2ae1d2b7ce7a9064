"""What the endpoint asks of whoever runs the models."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from covseg_ray.radiograph.geometry import Resize


@dataclass(frozen=True)
class Square:
    """How a film is laid for a model: pixels along a side, and the rule."""

    size: int
    resize: Resize


# A film, uint8 [S, S], as it is laid for each model that it has met.
Squares: TypeAlias = Mapping[Square, NDArray[np.uint8]]


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

    @property
    def square(self) -> Square:
        return Square(self.input_size, self.resize)


@dataclass(frozen=True)
class Prediction:
    """Classes of a film, uint8 [S, S], and the model that gave them. None where the film is not laid for that model:
    another bundle has taken the asked one's place."""

    classes_SS: NDArray[np.uint8] | None
    model: ModelInfo


class Predict(Protocol):
    """Runs models; the first of ``models()`` is the default."""

    async def models(self) -> Mapping[str, ModelInfo]:
        """Every model that is ready, by name. Raises UnavailableError while one is not."""

    async def __call__(self, name: str, squares: Squares) -> Prediction:
        """What the model of that name finds on a film. Raises OverloadedError or UnavailableError."""


class OverloadedError(Exception):
    """Too many films wait already; worth another try after so many seconds."""

    def __init__(self, retry_after: float) -> None:
        super().__init__(f"too many films wait already; try again in {retry_after:g} s")
        self.retry_after = retry_after


class UnavailableError(Exception):
    """No model is ready to answer."""

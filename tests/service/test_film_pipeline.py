"""A film while one bundle replaces another: both may answer, in any turn, and the film is resized for either."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from typing import Any

import numpy as np
import pytest
from PIL import Image
from small_model import MODEL

from covseg_ray.service.backend import InputSpec, ModelInputs, Prediction, Settings
from covseg_ray.service.errors import RequestError
from covseg_ray.service.film_pipeline import MODEL_CHANGES, FilmPipeline, SegmentedFilm
from covseg_ray.service.schema import ModelInfo


class Bundles:
    """Bundles that answer in turns; whichever the film is not resized for yet comes first. Each marks its square's left
    half as infected."""

    def __init__(self, *models: ModelInfo) -> None:
        self._models = models
        self.asked = 0

    async def models(self) -> Mapping[str, ModelInfo]:
        return {"default": self._models[0]}

    async def predict(self, name: str, inputs: ModelInputs) -> Prediction:
        assert name == "default"
        self.asked += 1
        for model in self._models:
            if InputSpec.of(model) not in inputs:
                return Prediction(None, model)
        last = self._models[-1]
        square_SS = inputs[InputSpec.of(last)]
        assert square_SS.shape == (last.input_size, last.input_size)
        classes_SS = np.zeros_like(square_SS)
        classes_SS[:, : last.input_size // 2] = 1
        return Prediction(classes_SS, last)


@contextmanager
def pipeline(backend: Bundles) -> Iterator[FilmPipeline]:
    made = FilmPipeline(backend, Settings(decoders=1))
    with closing(made.decoders):
        yield made


def film() -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.arange(64 * 48, dtype=np.uint32).reshape(48, 64).astype(np.uint8)).save(stream, "PNG")
    return stream.getvalue()


@pytest.mark.parametrize("new", [{"input_size": 64}, {"resize": "letterbox"}])
def test_two_bundles_in_turns_answer_after_the_film_was_resized_for_each(new: dict[str, Any]) -> None:
    backend = Bundles(MODEL, MODEL.model_copy(update={"model_id": "1" * 16, **new}))
    with pipeline(backend) as made:
        found = asyncio.run(made.segment(film(), None))
    assert isinstance(found, SegmentedFilm)
    assert (found.model.model_id, backend.asked) == ("1" * 16, 2)
    half_HW = np.zeros((48, 64), np.uint8)
    half_HW[:, :32] = 1
    np.testing.assert_array_equal(found.masks["infection"], half_HW)


def test_a_model_that_never_stays_is_given_up() -> None:
    sizes = (32 * (1 + turn) for turn in range(MODEL_CHANGES + 1))
    backend = Bundles(*(MODEL.model_copy(update={"input_size": size}) for size in sizes))
    with pipeline(backend) as made, pytest.raises(RequestError) as refused:
        asyncio.run(made.segment(film(), None))
    assert (refused.value.status, backend.asked) == (503, MODEL_CHANGES)

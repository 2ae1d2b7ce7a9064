"""A film while one bundle replaces another: both may answer, in any turn, and the film is laid for either."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from small_model import MODEL

from covseg_ray.service.film_pipeline import BUNDLES, Outlined, Outliner
from covseg_ray.service.models import ModelInfo, Prediction, Squares
from covseg_ray.service.refusals import RefusedRequestError
from covseg_ray.service.settings import Settings


class Bundles:
    """Bundles that answer in turns; whichever the film is not laid for yet comes first. Each marks its square's left
    half as infected."""

    def __init__(self, *models: ModelInfo) -> None:
        self._models = models
        self.asked = 0

    async def models(self) -> Mapping[str, ModelInfo]:
        return {"default": self._models[0]}

    async def __call__(self, name: str, squares: Squares) -> Prediction:
        assert name == "default"
        self.asked += 1
        for model in self._models:
            if model.square not in squares:
                return Prediction(None, model)
        last = self._models[-1]
        assert squares[last.square].shape == (last.input_size, last.input_size)
        classes_SS = np.zeros_like(squares[last.square])
        classes_SS[:, : last.input_size // 2] = 1
        return Prediction(classes_SS, last)


@contextmanager
def outliner(predict: Bundles) -> Iterator[Outliner]:
    made = Outliner(predict, Settings(decoders=1))
    with closing(made.decoders):
        yield made


def film() -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.arange(64 * 48, dtype=np.uint32).reshape(48, 64).astype(np.uint8)).save(stream, "PNG")
    return stream.getvalue()


@pytest.mark.parametrize("new", [{"input_size": 64}, {"resize": "letterbox"}])
def test_two_bundles_in_turns_answer_after_the_film_was_laid_for_each(new: dict[str, Any]) -> None:
    predict = Bundles(MODEL, replace(MODEL, model_id="1" * 16, **new))
    with outliner(predict) as made:
        found = asyncio.run(made.outline(film(), None))
    assert isinstance(found, Outlined)
    assert (found.model.model_id, predict.asked) == ("1" * 16, 2)
    half_HW = np.zeros((48, 64), np.uint8)
    half_HW[:, :32] = 1
    np.testing.assert_array_equal(found.masks["infection"], half_HW)


def test_a_model_that_never_stays_is_given_up() -> None:
    predict = Bundles(*(replace(MODEL, input_size=32 * (1 + turn)) for turn in range(BUNDLES + 1)))
    with outliner(predict) as made, pytest.raises(RefusedRequestError) as refused:
        asyncio.run(made.outline(film(), None))
    assert (refused.value.status, predict.asked) == (503, BUNDLES)

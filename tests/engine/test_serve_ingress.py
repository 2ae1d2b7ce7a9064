"""The ingress asks replicas that die, or have no room: what it tries again, and what it says to the service."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from ray.exceptions import RayActorError
from ray.serve.exceptions import BackPressureError
from small_model import MODEL

from covseg_ray.engine.serve_ingress import TRIES, Replicas
from covseg_ray.service.models import OverloadedError, Prediction, UnavailableError

FILM = np.zeros((32, 32), np.uint8)
SQUARES = {MODEL.square: FILM}
BUSY = BackPressureError(num_queued_requests=1, max_queued_requests=1)


class Handle:
    """Answers as written down, one answer a question; an error is raised."""

    def __init__(self, *answers: Any) -> None:
        self.answers: Iterator[Any] = iter(answers)
        self.asked = 0
        self.info = self.predict = self

    async def remote(self, *_: Any) -> Any:
        self.asked += 1
        answer = next(self.answers)
        if isinstance(answer, Exception):
            raise answer
        return answer


def test_a_replica_that_dies_leaves_the_question_to_another() -> None:
    handle = Handle(RayActorError(), RayActorError(), MODEL)
    assert asyncio.run(Replicas({"default": handle}).models()) == {"default": MODEL}
    film = Handle(RayActorError(), Prediction(FILM, MODEL))
    assert asyncio.run(Replicas({"default": film})("default", SQUARES)).model == MODEL
    assert (handle.asked, film.asked) == (3, 2)


def test_dying_replicas_are_asked_so_often_and_no_more() -> None:
    handle = Handle(*[RayActorError()] * (TRIES + 1))
    with pytest.raises(UnavailableError):
        asyncio.run(Replicas({"default": handle}).models())
    assert handle.asked == TRIES


def test_no_room_is_overload_for_a_film_and_not_ready_for_who_asks_what_is_served() -> None:
    """The service knows `UnavailableError` alone where it asks for the models; another would be a 500."""
    with pytest.raises(OverloadedError):
        asyncio.run(Replicas({"default": Handle(BUSY)})("default", SQUARES))
    with pytest.raises(UnavailableError, match="the model default is not ready"):
        asyncio.run(Replicas({"default": Handle(BUSY)}).models())

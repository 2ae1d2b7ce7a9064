"""The ingress asks replicas that die, or have no room: what it tries again, and what it says to the service."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from ray.exceptions import RayActorError
from ray.serve.exceptions import BackPressureError
from small_model import MODEL

from covseg_ray.engine.serving.ingress import TRIES, ReplicaBackend
from covseg_ray.service.backend import InputSpec, OverloadedError, Prediction, UnavailableError

FILM = np.zeros((32, 32), np.uint8)
INPUTS = {InputSpec.of(MODEL): FILM}
BUSY = BackPressureError(num_queued_requests=1, max_queued_requests=1)


class Handle:
    """Answers as written down, one answer a question; an error is raised, and a list comes as a stream."""

    def __init__(self, *answers: Any) -> None:
        self.answers: Iterator[Any] = iter(answers)
        self.asked = 0
        self.info = self

    def options(self, **how: Any) -> Streaming:
        assert (how["method_name"], how["stream"]) == ("predict", True)
        self.by_reference = how["_by_reference"]
        return Streaming(self)

    async def remote(self, *_: Any) -> Any:
        self.asked += 1
        answer = next(self.answers)
        if isinstance(answer, Exception):
            raise answer
        return answer


@dataclass
class Streaming:
    handle: Handle

    async def remote(self, *_: Any) -> AsyncIterator[Any]:
        for piece in await self.handle.remote():
            yield piece


def test_a_replica_that_dies_leaves_the_question_to_another() -> None:
    handle = Handle(RayActorError(), RayActorError(), MODEL)
    assert asyncio.run(ReplicaBackend({"default": handle}).models()) == {"default": MODEL}
    film = Handle(RayActorError(), [Prediction(FILM, MODEL)])
    assert asyncio.run(ReplicaBackend({"default": film}).predict("default", INPUTS)).model == MODEL
    assert (handle.asked, film.asked) == (3, 2)


def test_films_go_by_grpc_where_a_message_may_be_so_long() -> None:
    one, two = ({InputSpec(side, "stretch"): np.zeros((side, side), np.uint8)} for side in (1024, 1056))
    for inputs, by_reference in ((INPUTS, False), (one, False), (two, False), (one | two, True)):
        handle = Handle([Prediction(None, MODEL)])
        assert asyncio.run(ReplicaBackend({"default": handle}).predict("default", inputs)) == Prediction(None, MODEL)
        assert handle.by_reference == by_reference


def test_dying_replicas_are_asked_so_often_and_no_more() -> None:
    handle = Handle(*[RayActorError()] * (TRIES + 1))
    with pytest.raises(UnavailableError):
        asyncio.run(ReplicaBackend({"default": handle}).models())
    assert handle.asked == TRIES


def test_no_room_is_overload_for_a_film_and_not_ready_for_who_asks_what_is_served() -> None:
    """`/readyz` says that a model is not ready, not that films are queued."""
    with pytest.raises(OverloadedError):
        asyncio.run(ReplicaBackend({"default": Handle(BUSY)}).predict("default", INPUTS))
    with pytest.raises(UnavailableError, match="the model default is not ready"):
        asyncio.run(ReplicaBackend({"default": Handle(BUSY)}).models())

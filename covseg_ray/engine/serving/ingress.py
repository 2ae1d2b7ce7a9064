"""The endpoint's ingress: films are decoded here, and their squares go to whichever replica of the model is free.

Without torch: an ingress starts soon and stays small.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, Awaitable, Callable, Mapping
from typing import Any, cast

from fastapi import FastAPI
from ray import serve
from ray.exceptions import RayActorError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from covseg_ray.engine.session import keep_replica_to_loopback
from covseg_ray.engine.telemetry import EndpointMetrics
from covseg_ray.service.app import create_app
from covseg_ray.service.models import ModelInfo, OverloadedError, Prediction, Squares, UnavailableError
from covseg_ray.service.settings import Settings

RETRY_AFTER_SECONDS = 1
TRIES = 8
READY_SECONDS = 5.0
PREDICT_SECONDS = 60.0
MESSAGE_BYTES = 2 * 2**20  # of squares; Ray Serve's gRPC takes no message above 4 MiB


class Replicas:
    """`covseg_ray.service.models.Predict` over the replicas of each model."""

    def __init__(self, handles: Mapping[str, DeploymentHandle[Any]]) -> None:
        self._handles = handles
        self._known: dict[str, ModelInfo] = {}

    async def models(self) -> Mapping[str, ModelInfo]:
        for name, handle in self._handles.items():
            if name not in self._known:
                self._known[name] = await self._ask_info(name, handle)
        return {name: self._known[name] for name in self._handles}

    async def __call__(self, name: str, squares: Squares) -> Prediction:
        handle = self._handles[name]
        prediction: Prediction = await _answer(name, lambda: _predict(handle, squares), PREDICT_SECONDS)
        self._known[name] = prediction.model
        return prediction

    async def _ask_info(self, name: str, handle: DeploymentHandle[Any]) -> ModelInfo:
        try:
            info: ModelInfo = await _answer(name, lambda: handle.info.remote(), READY_SECONDS)
        except OverloadedError:
            raise UnavailableError(f"the model {name} is not ready") from None
        return info


async def _predict(handle: DeploymentHandle[Any], squares: Squares) -> Prediction:
    """Ask by gRPC, which costs less than Ray's calls of actors, where a message may be so long. As a stream of one
    prediction, or gRPC would bring what the replica says of its queue with the answer, when it is out of date."""
    length = sum(square_SS.nbytes for square_SS in squares.values())
    ask = handle.options(
        method_name="predict",
        stream=True,
        _by_reference=length > MESSAGE_BYTES,
        request_serialization="pickle",
        response_serialization="pickle",
    )
    [prediction] = [each async for each in cast(AsyncIterable[Prediction], ask.remote(squares))]
    return prediction


async def _answer(name: str, ask: Callable[[], Awaitable[Any]], seconds: float) -> Any:
    """What a replica of the model answers in that time. One that dies with the question in its hands, or is taken away
    for a new one, leaves it to another. Raises what is answered with 503."""
    for _ in range(TRIES):
        try:
            return await asyncio.wait_for(ask(), seconds)
        except RayActorError:
            continue
        except BackPressureError:
            raise OverloadedError(RETRY_AFTER_SECONDS) from None
        except (DeploymentUnavailableError, asyncio.TimeoutError):
            break
    raise UnavailableError(f"no replica of the model {name} answers")


@serve.ingress()
class Ingress:
    """The endpoint's app around handles of the models; films are decoded here."""

    def __init__(self, settings: Settings, handles: Mapping[str, DeploymentHandle[Any]]) -> None:
        keep_replica_to_loopback()
        self._settings, self._handles = settings, handles

    def __serve_build_asgi_app__(self) -> FastAPI:
        app = create_app(Replicas(self._handles), self._settings, EndpointMetrics())
        app.add_middleware(OneRequestId)
        return app


class OneRequestId:
    """Takes the request id from the answer's headers: Serve, outside, appends it to every answer."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_without(message: Message) -> None:
            if message["type"] == "http.response.start":
                del MutableHeaders(scope=message)["x-request-id"]
            await send(message)

        await self.app(scope, receive, send_without)

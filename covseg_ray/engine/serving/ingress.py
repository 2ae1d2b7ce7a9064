"""The endpoint's ingress deployment: it decodes films and sends the model's input to a free replica of the model.

It does not import torch, so that it starts quickly and stays small.
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
from covseg_ray.service.backend import ModelInputs, OverloadedError, Prediction, Settings, UnavailableError
from covseg_ray.service.schema import ModelInfo

RETRY_AFTER_SECONDS = 1
TRIES = 8
READY_SECONDS = 5.0
PREDICT_SECONDS = 60.0
MESSAGE_BYTES = 2 * 2**20  # of model inputs; Ray Serve's gRPC takes no message above 4 MiB


class ReplicaBackend:
    """`covseg_ray.service.backend.Backend` over the replicas of each model."""

    def __init__(self, handles: Mapping[str, DeploymentHandle[Any]]) -> None:
        self._handles = handles
        self._known: dict[str, ModelInfo] = {}

    async def models(self) -> Mapping[str, ModelInfo]:
        for name, handle in self._handles.items():
            if name not in self._known:
                try:
                    self._known[name] = await _call(name, handle.info.remote, READY_SECONDS)
                except OverloadedError:
                    raise UnavailableError(f"the model {name} is not ready") from None
        return {name: self._known[name] for name in self._handles}

    async def predict(self, name: str, inputs: ModelInputs) -> Prediction:
        handle = self._handles[name]
        prediction: Prediction = await _call(name, lambda: _predict(handle, inputs), PREDICT_SECONDS)
        self._known[name] = prediction.model
        return prediction


async def _predict(handle: DeploymentHandle[Any], inputs: ModelInputs) -> Prediction:
    """Call by gRPC, which costs less than Ray's actor calls, if the message is short enough. As a stream of one item:
    otherwise gRPC sends the replica's queue length with the response, when it is out of date."""
    length = sum(square_SS.nbytes for square_SS in inputs.values())
    method = handle.options(
        method_name="predict",
        stream=True,
        _by_reference=length > MESSAGE_BYTES,
        request_serialization="pickle",
        response_serialization="pickle",
    )
    [prediction] = [item async for item in cast(AsyncIterable[Prediction], method.remote(inputs))]
    return prediction


async def _call(name: str, send: Callable[[], Awaitable[Any]], seconds: float) -> Any:
    """The response of a replica of the model within ``seconds``. If the replica dies or is replaced meanwhile, another
    one is called. Raises OverloadedError or UnavailableError."""
    for _ in range(TRIES):
        try:
            return await asyncio.wait_for(send(), seconds)
        except RayActorError:
            continue
        except BackPressureError:
            raise OverloadedError(RETRY_AFTER_SECONDS) from None
        except (DeploymentUnavailableError, asyncio.TimeoutError):
            break
    raise UnavailableError(f"no replica of the model {name} answers")


@serve.ingress()
class Ingress:
    """The endpoint's app on the replicas of its models."""

    def __init__(self, settings: Settings, handles: Mapping[str, DeploymentHandle[Any]]) -> None:
        keep_replica_to_loopback()
        self._settings, self._handles = settings, handles

    def __serve_build_asgi_app__(self) -> FastAPI:
        app = create_app(ReplicaBackend(self._handles), self._settings, EndpointMetrics())
        app.add_middleware(without_request_id)
        return app


def without_request_id(app: ASGIApp) -> ASGIApp:
    """ASGI middleware that removes the request id from the response headers: Serve appends it to every response."""

    async def respond(scope: Scope, receive: Receive, send: Send) -> None:
        async def send_without(message: Message) -> None:
            if message["type"] == "http.response.start":
                del MutableHeaders(scope=message)["x-request-id"]
            await send(message)

        await app(scope, receive, send_without)

    return respond

"""Error responses: each is one JSON document with a reason, a line to read and the request id."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from covseg_ray.radiograph.film import Rejected
from covseg_ray.radiograph.formats import NOT_AN_IMAGE
from covseg_ray.service.schema import Error, ErrorDocument


class RequestError(Exception):
    """``status`` is the HTTP status, ``reason`` a stable code, ``detail`` one line for a person."""

    def __init__(self, status: int, reason: str, detail: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status, self.reason, self.detail = status, reason, detail
        self.headers = dict(headers or {})


class BusyServerError(RequestError):
    """503 with Retry-After, in whole seconds: the same request may succeed later."""

    def __init__(self, reason: str, detail: str, retry_after: float) -> None:
        super().__init__(503, reason, detail, {"Retry-After": str(max(1, math.ceil(retry_after)))})


def rejected_film(rejected: Rejected) -> RequestError:
    """415 for bytes of no known type, 422 for a film that cannot be used."""
    return RequestError(415 if rejected.reason == NOT_AN_IMAGE else 422, rejected.reason, rejected.detail)


def add_error_handlers(app: FastAPI) -> None:
    """Answer every error of ``app``, of the framework and of the code too, with an `ErrorDocument`."""

    app.exception_handler(RequestError)(_response)

    @app.exception_handler(RequestValidationError)
    async def invalid_query(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        return await _response(request, RequestError(400, "bad-query", f"{first['loc'][-1]}: {first['msg']}"))

    @app.exception_handler(HTTPException)
    async def framework_error(request: Request, error: HTTPException) -> Response:
        reason = {404: "not-found", 405: "method-not-allowed"}.get(error.status_code, "refused")
        return await _response(request, RequestError(error.status_code, reason, str(error.detail), error.headers))

    @app.exception_handler(Exception)
    async def unexpected_error(request: Request, error: Exception) -> Response:
        detail = "the server failed on this request; its log has the request id"
        return await _response(request, RequestError(500, "failed", detail))


async def _response(request: Request, error: RequestError) -> Response:
    request_id = request.scope["request_id"]
    document = ErrorDocument(error=Error(reason=error.reason, detail=error.detail, request_id=request_id))
    headers = {**error.headers, "X-Request-ID": request_id}
    return Response(json.dumps(document.model_dump()), error.status, headers, "application/json")

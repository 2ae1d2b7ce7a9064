"""Requests that are not answered with a film: each is one JSON document with a reason, a line to read and an id."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping

from fastapi import Response

from covseg_ray.radiograph.film import Rejected
from covseg_ray.radiograph.formats import NOT_AN_IMAGE


class RefusedRequestError(Exception):
    """``status`` is the HTTP status, ``reason`` a stable code, ``detail`` one line for a person."""

    def __init__(self, status: int, reason: str, detail: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status, self.reason, self.detail = status, reason, detail
        self.headers = dict(headers or {})


def of_film(rejected: Rejected) -> RefusedRequestError:
    """415 for bytes of no known type, 422 for a film that cannot be used."""
    return RefusedRequestError(415 if rejected.reason == NOT_AN_IMAGE else 422, rejected.reason, rejected.detail)


def busy(reason: str, detail: str, retry_after: float) -> RefusedRequestError:
    return RefusedRequestError(503, reason, detail, {"Retry-After": str(max(1, math.ceil(retry_after)))})


def answer(refusal: RefusedRequestError, request_id: str) -> Response:
    document = {"error": {"reason": refusal.reason, "detail": refusal.detail, "request_id": request_id}}
    headers = {**refusal.headers, "X-Request-ID": request_id}
    return Response(json.dumps(document), refusal.status, headers, "application/json")

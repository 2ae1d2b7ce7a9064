"""Around every response: a request id, security headers, one log line and the metrics; never a film or a file name."""

from __future__ import annotations

import logging
import re
import time
import uuid
from collections.abc import Mapping
from typing import Protocol

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOG = logging.getLogger("covseg_ray.service")
_VALID_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
CONTENT_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_SECURITY_HEADERS: Mapping[str, str] = {
    "content-security-policy": CONTENT_POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}


class Metrics(Protocol):
    """Counts for a monitoring system."""

    def request(self, route: str, status: int, seconds: float) -> None: ...

    def rejected(self, reason: str) -> None: ...

    def infection(self, fraction: float) -> None: ...


class RequestMiddleware:
    """ASGI middleware; the app inside finds the request id in ``scope["request_id"]``."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        sent_id = Headers(scope=scope).get("x-request-id", "")
        request_id = sent_id if _VALID_ID.fullmatch(sent_id) else uuid.uuid4().hex
        scope["request_id"] = request_id
        start, status = time.perf_counter(), 500

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["x-request-id"] = request_id
                for name, value in _SECURITY_HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        try:
            await self.app(scope, receive, send_with_headers)
        finally:
            seconds = time.perf_counter() - start
            # The declared route: the path of a request may hold a patient's name.
            route = getattr(scope.get("route"), "path", "unknown")
            self.metrics.request(route, status, seconds)
            LOG.info("%s %s %d %.1f ms %s", scope["method"], route, status, 1000 * seconds, request_id)

"""Around every answer: a request id, security headers, one line of log and the counts; never a film or a name."""

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
_GIVEN_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
CONTENT_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_SECURITY: Mapping[str, str] = {
    "content-security-policy": CONTENT_POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}


class Observe(Protocol):
    """Takes the counts that a monitoring system collects."""

    def request(self, route: str, status: int, seconds: float) -> None: ...

    def rejected(self, reason: str) -> None: ...

    def infection(self, fraction: float) -> None: ...


class Envelope:
    """ASGI middleware; ``scope["request_id"]`` is the id inside."""

    def __init__(self, app: ASGIApp, observe: Observe) -> None:
        self.app, self.observe = app, observe

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        request_id = given if _GIVEN_ID.fullmatch(given) else uuid.uuid4().hex
        scope["request_id"] = request_id
        start, status = time.perf_counter(), 500

        async def send_wrapped(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["x-request-id"] = request_id
                for name, value in _SECURITY.items():
                    headers.setdefault(name, value)
            await send(message)

        try:
            await self.app(scope, receive, send_wrapped)
        finally:
            seconds = time.perf_counter() - start
            # The route as it is declared: a path somebody made up may hold a patient's name.
            route = getattr(scope.get("route"), "path", "unknown")
            self.observe.request(route, status, seconds)
            LOG.info("%s %s %d %.1f ms %s", scope["method"], route, status, 1000 * seconds, request_id)

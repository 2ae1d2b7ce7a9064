"""An HTTP server on loopback that answers as a test scripts it, by the endpoint's contract or against it."""

from __future__ import annotations

import base64
import hashlib
import json
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

import numpy as np

from covseg_ray.radiograph.masks import encode_png1

MODEL = {
    **{"name": "default", "model_id": "0123456789abcdef", "classes": ["background", "infection"], "input_size": 256},
    **{"resize": "stretch", "architecture": "unet", "encoder": "resnet34"},
    **{"preprocess_version": "1", "version": "0.1.0"},
}


class Request(NamedTuple):
    method: str
    path: str
    query: dict[str, list[str]]
    headers: Mapping[str, str]
    body: bytes
    at: float


Turn = Callable[["Handler", Request], None]


@dataclass
class Script:
    """``turns`` answer one request for a film each, in order; then ``default`` answers every one."""

    turns: list[Turn] = field(default_factory=list)
    default: Turn = lambda handler, request: segment(handler, request)
    key: str | None = None
    seen: list[Request] = field(default_factory=list)
    url: str = ""

    @property
    def films(self) -> list[Request]:
        return [request for request in self.seen if request.path == "/v1/segment"]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    script: Script
    lock: threading.Lock

    def do_GET(self) -> None:
        self._take()

    def do_POST(self) -> None:
        self._take()

    def log_message(self, *_: object) -> None:
        pass

    def handle(self) -> None:
        with suppress(OSError):  # the client has gone, or a turn cut the connection
            super().handle()

    def _take(self) -> None:
        parts = urlsplit(self.path)
        if self.script.default is deaf:
            time.sleep(30)
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        headers = {name.lower(): value for name, value in self.headers.items()}
        request = Request(self.command, parts.path, parse_qs(parts.query), headers, body, time.monotonic())
        with self.lock:
            self.script.seen.append(request)
            waiting = request.path == "/v1/segment" and self.script.turns
            turn = self.script.turns.pop(0) if waiting else self.script.default
        if self.script.key and headers.get("authorization") != f"Bearer {self.script.key}":
            error(401, "unauthorised")(self, request)
        elif request.path == "/v1/model":
            self.answer(200, "application/json", json.dumps({"models": [MODEL]}).encode())
        else:
            turn(self, request)

    def answer(self, status: int, kind: str, body: bytes, headers: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        ours = {"Content-Type": kind, "Content-Length": str(len(body)), "X-Request-ID": self.headers["X-Request-ID"]}
        for name, value in {**ours, **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def cut(self) -> None:
        """Reset the connection."""
        self.wfile.flush()
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        self.close_connection = True


def mask_of(body: bytes) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """The mask that this server finds on a film: 10 x 8 pixels, as many of them infected as its digest says."""
    infected = hashlib.sha256(body).digest()[0] % 81
    return (np.arange(80).reshape(10, 8) < infected).astype(np.uint8)


def document(body: bytes) -> dict[str, Any]:
    mask_HW = mask_of(body)
    return {
        **{"status": "ok", "name": None, "height": 10, "width": 8, "frontal": 0.25},
        **{"frontal_level": 0.005, "infection_fraction": int(mask_HW.sum()) / 80},
        **{"lung_fraction": None, "severity": None, "contours": [[[0, 0], [8, 0], [8, 1]]]},
        "mask": {"encoding": "png", "data": base64.b64encode(encode_png1(mask_HW)).decode()},
        **{"dicom": body.startswith(b"DICM"), "input_sha256": hashlib.sha256(body).hexdigest()},
        **{"preprocess_version": "1", "model": {"name": "default", "model_id": MODEL["model_id"]}},
        "timing_ms": {"decode": 1.5, "predict": 95.0, "render": 3.0},
    }


def segment(handler: Handler, request: Request) -> None:
    """As the contract says, of any bytes at all."""
    accept, view = request.headers["accept"], request.query.get("view", ["mask"])[0]
    if accept == "application/json":
        found = document(request.body)
        if request.query.get("picture") == ["true"]:
            found["picture"] = base64.b64encode(b"picture of " + request.body).decode()
        handler.answer(200, "application/json", json.dumps(found).encode())
    elif accept == "image/png":
        png = encode_png1(mask_of(request.body)) if view == "mask" else b"overlay of " + request.body
        handler.answer(200, accept, png)
    elif request.body.startswith(b"DICM"):
        handler.answer(200, accept, b"seg of " + request.body)
    else:
        error(422, "no-dicom-seg")(handler, request)


def error(status: int, reason: str, headers: Mapping[str, str] | None = None) -> Turn:
    """A failure as the service itself reports it."""
    document = {"error": {"reason": reason, "detail": f"this is {reason}", "request_id": "r-1"}}
    return lambda handler, _: handler.answer(status, "application/json", json.dumps(document).encode(), headers)


def proxy_error(status: int) -> Turn:
    """A failure as a proxy reports it."""
    return lambda handler, _: handler.answer(status, "text/html", b"<h1>Sorry</h1>")


def reset_half_way(handler: Handler, request: Request) -> None:
    body = json.dumps(document(request.body)).encode()
    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    handler.wfile.write(head.encode() + body[: len(body) // 2])
    handler.cut()


def no_answer(handler: Handler, request: Request) -> None:
    handler.cut()


def garbage(handler: Handler, request: Request) -> None:
    handler.wfile.write(b"\x00\x01 what is this\r\n\r\n")
    handler.cut()


def silent(handler: Handler, request: Request) -> None:
    time.sleep(30)


def dribble(handler: Handler, request: Request) -> None:
    """An answer that would take half an hour, and never stands still for long."""
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 100000\r\n\r\n")
    for _ in range(1500):
        handler.wfile.write(b" ")
        time.sleep(0.02)


def deaf(handler: Handler, request: Request) -> None:
    """As ``default``: not even the body is read."""


@contextmanager
def serving(script: Script, late_seconds: float = 0.0) -> Iterator[Script]:
    """The service on a port of its own, which refuses connections until it begins, so many seconds late."""
    handler = type("Scripted", (Handler,), {"script": script, "lock": threading.Lock()})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler, bind_and_activate=False)
    server.daemon_threads, server.block_on_close = True, False
    server.server_bind()
    script.url = f"http://127.0.0.1:{server.server_port}"

    def serve() -> None:
        if late_seconds:
            time.sleep(late_seconds)
            server.server_activate()
        server.serve_forever(poll_interval=0.02)

    thread = threading.Thread(target=serve, daemon=True)
    if not late_seconds:
        server.server_activate()
    thread.start()
    try:
        yield script
    finally:
        server.shutdown()
        server.server_close()
        thread.join()

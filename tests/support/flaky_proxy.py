"""A proxy before an S3 server that fails as networks and busy servers do: 500, 503, resets and stalls, by chance, and
away for a while when told to."""

from __future__ import annotations

import http.client
import random
import socket
import struct
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from urllib.parse import urlsplit

STALL_SECONDS = 3.0
PASSED_ON = ("content-length", "transfer-encoding", "connection")


class FlakyProxy:
    """Listens on loopback; ``share`` of the requests go wrong, and ``refuse`` answers 403 to them all."""

    def __init__(self, upstream: str, share: float, seed: int = 0, refuse: bool = False) -> None:
        self.upstream, self.share, self.refuse = urlsplit(upstream), share, refuse
        self.chance, self.lock, self.faults = random.Random(seed), threading.Lock(), Counter[str]()
        self.away = False

    def _listen(self, port: int) -> None:
        self.server = ThreadingHTTPServer(("127.0.0.1", port), self._handler())
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}"

    def __enter__(self) -> FlakyProxy:
        self._listen(0)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._close()

    def _close(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def be_away(self, seconds: float) -> None:
        """Refuse connections for a while, and reset those that are open at their next request."""
        port = self.server.server_address[1]
        self.away = True
        self._close()
        time.sleep(seconds)
        self.away = False
        self._listen(port)

    def draw(self) -> str:
        """What goes wrong with the next request, if anything does."""
        with self.lock:
            if self.away:
                fault = "reset-before"
            elif self.refuse:
                fault = "403"
            elif self.chance.random() < self.share:
                fault = self.chance.choice(["500", "503", "reset-before", "reset-after", "stall"])
            else:
                fault = ""
            self.faults[fault or "passed"] += 1
        return fault

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_one(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                fault = proxy.draw()
                if fault in ("500", "503", "403"):
                    self.answer(int(fault), {}, b"")
                elif fault == "reset-before":
                    self.reset()
                else:
                    if fault == "stall":
                        time.sleep(STALL_SECONDS)
                    status, headers, data = self.forward(body)
                    if fault == "reset-after":
                        self.reset()
                    else:
                        self.answer(status, headers, data)

            do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = handle_one

            def forward(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
                connection = http.client.HTTPConnection(proxy.upstream.hostname or "", proxy.upstream.port)
                connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
                for name, value in self.headers.items():
                    connection.putheader(name, value)
                connection.endheaders(body)
                response = connection.getresponse()
                data = response.read()
                connection.close()
                return response.status, dict(response.getheaders()), data

            def answer(self, status: int, headers: dict[str, str], data: bytes) -> None:
                self.send_response_only(status)
                for name, value in headers.items():
                    if name.lower() not in PASSED_ON:
                        self.send_header(name, value)
                length = headers.get("Content-Length", "0") if self.command == "HEAD" else str(len(data))
                self.send_header("Content-Length", length)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(data)

            def reset(self) -> None:
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.close_connection = True

            def log_message(self, format: str, *values: object) -> None:
                """Nothing: a request a line would be a lot."""

        return Handler

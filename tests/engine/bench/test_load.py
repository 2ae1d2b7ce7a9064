"""Load on a server whose answers are known: how many came, how long they took, how many were refused and waited."""

from __future__ import annotations

import http.server
import threading
import time
from collections.abc import Iterator

import pytest

from covseg_ray.engine.bench.serve import run_load

ANSWER_SECONDS = 0.05
WAIT_SECONDS = 1


class Slow(http.server.BaseHTTPRequestHandler):
    """Answers after a while; every third request of the server with 503 and a time to wait, every fifth with 500."""

    protocol_version = "HTTP/1.1"
    lock = threading.Lock()
    served = 0

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        with Slow.lock:
            Slow.served += 1
            status = 503 if Slow.served % 3 == 0 else 500 if Slow.served % 5 == 0 else 200
        time.sleep(ANSWER_SECONDS)
        self.send_response(status)
        if status == 503:
            self.send_header("retry-after", str(WAIT_SECONDS))
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *words: object) -> None:
        return


@pytest.fixture
def url() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Slow) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def test_every_answer_is_counted_once_and_refusals_apart(url: str):
    Slow.served = 0
    begin = time.monotonic()
    load = run_load(url, b"a film", 4, 1.5)
    elapsed = time.monotonic() - begin
    refused = Slow.served // 3
    failed = Slow.served // 5 - Slow.served // 15
    good = Slow.served - refused - failed
    assert (load.refused, load.failed) == (refused, failed)
    assert min(refused, failed) > 0
    assert good / elapsed <= load.per_second <= good / 1.3
    assert 1000 * ANSWER_SECONDS <= load.p50_ms <= load.p99_ms
    # Four clients that wait can do no more: in 1.5 s, answers of 50 ms and, for every third, a second of waiting.
    assert Slow.served <= 4 * (1.5 / (ANSWER_SECONDS + WAIT_SECONDS / 3) + 3)


def test_a_server_that_is_gone_is_counted_and_ends_nothing():
    load = run_load("http://127.0.0.1:9", b"a film", 2, 0.3)
    assert load.failed > 0
    assert load.per_second == 0

"""A load generator for an endpoint: each client sends a film, waits for the response, and sends the next."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass

import httpx2
import numpy as np

from covseg_ray.service.retries import Response

TIMEOUT_SECONDS = 120.0
ACCEPT = "image/png"


@dataclass(frozen=True)
class Load:
    """What ``clients`` clients measured: requests per second with status 200 and their latency in milliseconds;
    ``refused`` counts status 503, ``failed`` every other status and requests without a response."""

    clients: int
    per_second: float
    p50_ms: float
    p99_ms: float
    refused: int
    failed: int


def run_load(url: str, film: bytes, clients: int, seconds: float) -> Load:
    """Send ``film``, a PNG, to the endpoint at ``url`` for so many seconds, and wait for requests in flight. A client
    that is refused waits as ``Retry-After`` says, so that it takes no CPU time from the others."""
    responses: list[tuple[int, float]] = []  # status and seconds
    barrier = threading.Barrier(clients + 1)

    def send() -> None:
        with httpx2.Client(timeout=TIMEOUT_SECONDS, trust_env=False) as client:
            barrier.wait()
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                start = time.perf_counter()
                response = _post(client, url, film)
                responses.append((response.status, time.perf_counter() - start))
                delay = response.retry_after(time.time()) or 0.0
                time.sleep(max(0.0, min(delay, end - time.monotonic())))

    threads = [threading.Thread(target=send) for _ in range(clients)]
    for thread in threads:
        thread.start()
    barrier.wait()
    start = time.monotonic()
    for thread in threads:
        thread.join()
    elapsed = time.monotonic() - start
    latencies = [latency for status, latency in responses if status == 200]
    refused = sum(status == 503 for status, _ in responses)
    p50, p99 = (1000 * float(value) for value in np.percentile(latencies, [50, 99])) if latencies else (np.nan, np.nan)
    return Load(clients, len(latencies) / elapsed, p50, p99, refused, len(responses) - len(latencies) - refused)


def _post(client: httpx2.Client, url: str, film: bytes) -> Response:
    """The response; one of status 0 if none came."""
    try:
        response = client.post(f"{url}/v1/segment", content=film, headers={"accept": ACCEPT})
    except httpx2.HTTPError:
        return Response(0, {}, b"")
    return Response(response.status_code, response.headers, response.content)

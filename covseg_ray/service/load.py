"""Load on an endpoint: clients that each send a film, wait for the answer, and send the next, or again when told to."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass

import httpx2
import numpy as np

LIMIT_SECONDS = 120.0
CONTENT = "image/png"


@dataclass(frozen=True)
class Load:
    """What so many ``clients`` saw: requests a second that were answered with 200, their milliseconds, how many were
    ``refused`` with 503, and how many got another answer or none."""

    clients: int
    per_second: float
    p50_ms: float
    p99_ms: float
    refused: int
    failed: int


def put_load(url: str, film: bytes, clients: int, seconds: float) -> Load:
    """Send ``film``, a PNG, to the endpoint at ``url`` for so many seconds; what is on its way then is waited for. Who
    is refused waits as ``Retry-After`` says: clients that do not take the cores from those that are answered."""
    spent: list[float] = []
    refused: list[float] = []
    failed: list[float] = []
    all_there = threading.Barrier(clients + 1)

    def send() -> None:
        with httpx2.Client(timeout=LIMIT_SECONDS, trust_env=False) as client:
            all_there.wait()
            until = time.monotonic() + seconds
            while time.monotonic() < until:
                begin = time.perf_counter()
                status, pause = _post(client, url, film)
                {200: spent, 503: refused}.get(status, failed).append(time.perf_counter() - begin)
                time.sleep(max(0.0, min(pause, until - time.monotonic())))

    threads = [threading.Thread(target=send) for _ in range(clients)]
    for thread in threads:
        thread.start()
    all_there.wait()
    begin = time.monotonic()
    for thread in threads:
        thread.join()
    elapsed = time.monotonic() - begin
    p50, p99 = (1000 * float(value) for value in np.percentile(spent, [50, 99])) if spent else (np.nan, np.nan)
    return Load(clients, len(spent) / elapsed, p50, p99, len(refused), len(failed))


def _post(client: httpx2.Client, url: str, film: bytes) -> tuple[int, float]:
    """The answer's status, 0 where there is none, and the seconds to wait that it tells."""
    try:
        answer = client.post(f"{url}/v1/segment", content=film, headers={"accept": CONTENT})
    except httpx2.HTTPError:
        return 0, 0.0
    return answer.status_code, float(answer.headers.get("retry-after", 0))

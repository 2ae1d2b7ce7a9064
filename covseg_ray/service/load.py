"""Load on an endpoint: clients that each send a film, wait for the answer, and send the next."""

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
    """What so many ``clients`` saw: requests a second that were answered with 200, milliseconds, and how many got
    another answer or none."""

    clients: int
    per_second: float
    p50_ms: float
    p99_ms: float
    failed: int


def put_load(url: str, film: bytes, clients: int, seconds: float) -> Load:
    """Send ``film``, a PNG, to the endpoint at ``url`` for so many seconds; what is on its way then is waited for."""
    spent: list[float] = []
    failed: list[float] = []
    all_there = threading.Barrier(clients + 1)

    def send() -> None:
        with httpx2.Client(timeout=LIMIT_SECONDS, trust_env=False) as client:
            all_there.wait()
            until = time.monotonic() + seconds
            while time.monotonic() < until:
                begin = time.perf_counter()
                try:
                    answer = client.post(f"{url}/v1/segment", content=film, headers={"accept": CONTENT})
                    good = answer.status_code == 200
                except httpx2.HTTPError:
                    good = False
                (spent if good else failed).append(time.perf_counter() - begin)

    threads = [threading.Thread(target=send) for _ in range(clients)]
    for thread in threads:
        thread.start()
    all_there.wait()
    begin = time.monotonic()
    for thread in threads:
        thread.join()
    elapsed = time.monotonic() - begin
    p50, p99 = (1000 * float(value) for value in np.percentile(spent, [50, 99])) if spent else (np.nan, np.nan)
    return Load(clients, len(spent) / elapsed, p50, p99, len(failed))

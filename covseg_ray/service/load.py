"""Load on an endpoint: clients that each send a film, wait for the answer, and send the next, or again when told to."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass

import httpx2
import numpy as np

from covseg_ray.service.retries import Answer

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
    answers: list[tuple[int, float]] = []  # each one's status, and the seconds that it took
    all_there = threading.Barrier(clients + 1)

    def send() -> None:
        with httpx2.Client(timeout=LIMIT_SECONDS, trust_env=False) as client:
            all_there.wait()
            until = time.monotonic() + seconds
            while time.monotonic() < until:
                begin = time.perf_counter()
                answer = _post(client, url, film)
                answers.append((answer.status, time.perf_counter() - begin))
                asked = answer.retry_after(time.time()) or 0.0
                time.sleep(max(0.0, min(asked, until - time.monotonic())))

    threads = [threading.Thread(target=send) for _ in range(clients)]
    for thread in threads:
        thread.start()
    all_there.wait()
    begin = time.monotonic()
    for thread in threads:
        thread.join()
    elapsed = time.monotonic() - begin
    spent = [took for status, took in answers if status == 200]
    refused = sum(status == 503 for status, _ in answers)
    p50, p99 = (1000 * float(value) for value in np.percentile(spent, [50, 99])) if spent else (np.nan, np.nan)
    return Load(clients, len(spent) / elapsed, p50, p99, refused, len(answers) - len(spent) - refused)


def _post(client: httpx2.Client, url: str, film: bytes) -> Answer:
    """The answer; one of status 0 where none came."""
    try:
        found = client.post(f"{url}/v1/segment", content=film, headers={"accept": CONTENT})
    except httpx2.HTTPError:
        return Answer(0, {}, b"")
    return Answer(found.status_code, found.headers, found.content)

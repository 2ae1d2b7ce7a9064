"""The endpoint and two services that one could write instead, started for a measurement, and clients that load them."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import numpy as np

PEERS = Path(__file__).parent / "peers"
PORT = 8790
KEY = "a-key-for-the-bench"
# Ray's HAProxy listens on every interface: the endpoint asks for a key there, and the bench belongs into a network
# namespace then.
HAPROXY = {"RAY_SERVE_ENABLE_HA_PROXY": "1", "COVSEG_API_KEYS": KEY}


def command(name: str, model: str, workers: int, folder: Path) -> list[str]:
    if name.startswith("covseg-ray"):
        file = folder / "serve.yaml"
        args = {"models": {"default": model}, "replicas": [workers, workers], "waiting": 64}
        file.write_text(json.dumps({"applications": [{"name": "covseg-ray", "args": args}]}))
        return [sys.executable, "-m", "covseg_ray", "serve", "-c", str(file), "--port", str(PORT)]
    return [sys.executable, str(PEERS / f"{name}_service.py"), model, str(PORT)]


@contextmanager
def running(words: list[str], environment: dict[str, str]) -> Iterator[None]:
    nowhere = subprocess.DEVNULL
    process = subprocess.Popen(
        words, stdout=nowhere, stderr=nowhere, start_new_session=True, env=os.environ | environment
    )
    try:
        deadline = time.monotonic() + 180
        while True:
            assert process.poll() is None, f"{words[:3]} ended with {process.returncode}"
            assert time.monotonic() < deadline, f"{words[:3]} did not come up"
            try:
                if httpx2.get(f"http://127.0.0.1:{PORT}/readyz", trust_env=False).status_code == 200:
                    break
            except httpx2.HTTPError:
                time.sleep(0.3)
        yield
    finally:
        process.terminate()  # the group as well: LitServe leaves its workers
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(90)  # killed before its end, Serve leaves HAProxy on the port
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def load(sent: dict[str, Any], clients: int, seconds: float) -> dict[str, float]:
    """Requests a second and latencies in milliseconds, with so many clients that each wait for their answer."""
    spent: list[float] = []
    failed: list[int] = []
    over = time.monotonic() + seconds

    def send() -> None:
        with httpx2.Client(timeout=120, trust_env=False) as client:
            while time.monotonic() < over:
                begin = time.perf_counter()
                url = f"http://127.0.0.1:{PORT}/v1/segment"
                answer = client.post(url, headers={"accept": "image/png", "authorization": f"Bearer {KEY}"}, **sent)
                (spent if answer.status_code == 200 else failed).append(time.perf_counter() - begin)

    threads = [threading.Thread(target=send) for _ in range(clients)]
    begin = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    elapsed = time.monotonic() - begin
    p50, p99 = (1000 * float(value) for value in np.percentile(spent, [50, 99]))
    return {"clients": clients, "per_second": len(spent) / elapsed, "p50_ms": p50, "p99_ms": p99, "failed": len(failed)}

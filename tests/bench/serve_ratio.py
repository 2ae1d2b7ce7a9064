"""Requests a second and latency of the endpoint, beside the model alone in memory and two services one could write."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import numpy as np

from covseg_ray.engine.runtime import KEEP_MEMORY
from covseg_ray.radiograph.encode import encode_png
from covseg_ray.radiograph.phantom import make_phantom

PEERS = Path(__file__).parent / "peers"
PORT = 8790
KEY = "a-key-for-the-bench"
# Ray's HAProxy listens on every interface: the endpoint asks for a key there, and the bench belongs into a network
# namespace then:  unshare -n sh -c "ip link set lo up; python tests/bench/serve_ratio.py ..."
HAPROXY = {"RAY_SERVE_ENABLE_HA_PROXY": "1", "COVSEG_API_KEYS": KEY}
IN_MEMORY = """
import sys, time
import numpy as np
from covseg_ray.engine.bundles import load_bundle
from covseg_ray.radiograph.phantom import make_phantom
from covseg_ray.segmentation.predictor import Predictor
bundle = load_bundle(sys.argv[1])
predictor = Predictor(bundle, threads=int(sys.argv[2]))
side = bundle.spec.input_size
films = np.stack([make_phantom(0, index, side).image for index in range(int(sys.argv[3]))])
predictor.predict(films[:2])
spent = []
for film in films:
    begin = time.perf_counter()
    predictor.predict(film[None])
    spent.append(time.perf_counter() - begin)
print(1 / np.mean(spent), 1000 * np.median(spent))
"""


def in_memory(model: str, threads: int, films: int) -> tuple[float, float]:
    """Films a second, and the median in milliseconds, of the predictor alone."""
    words = [sys.executable, "-c", IN_MEMORY, model, str(threads), str(films)]
    done = subprocess.run(words, env=os.environ | KEEP_MEMORY, capture_output=True, text=True, check=True)
    speed, median = done.stdout.split()
    return float(speed), float(median)


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
            process.wait(20)
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--services", default="covseg-ray,plain,litserve", help="also covseg-ray-haproxy")
    given = parser.parse_args()
    cores = os.cpu_count() or 1
    film = encode_png(make_phantom(0, 0, 256).image)
    for _ in range(given.rounds):
        alone = {threads: in_memory(given.model, threads, 100) for threads in sorted({1, cores})}
        for threads, (speed, median) in alone.items():
            print(json.dumps({"memory": {"threads": threads, "per_second": speed, "p50_ms": median}}), flush=True)
        for name in given.services.split(","):
            with (
                tempfile.TemporaryDirectory() as folder,
                running(command(name, given.model, cores, Path(folder)), HAPROXY if name.endswith("haproxy") else {}),
            ):
                sent = {"files": {"film": film}} if name == "litserve" else {"content": film}
                load(sent, cores, 5)
                found = [load(sent, clients, given.seconds) for clients in (1, 16, 64)]
            print(json.dumps({name: found}), flush=True)


if __name__ == "__main__":
    main()

"""Requests a second of the endpoint as this machine serves it, under load, over the model alone in memory."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import IO

import httpx2
import numpy as np

from covseg_ray.engine.bench.predict import Models
from covseg_ray.engine.bench.processes import in_process
from covseg_ray.engine.bench.rounds import Bench, Rate, Say, in_turn, machine
from covseg_ray.engine.bundle_io import load_bundle
from covseg_ray.engine.session import KEEP_MEMORY, cores
from covseg_ray.errors import CovsegError, UsageError
from covseg_ray.radiograph.masks import encode_png
from covseg_ray.radiograph.phantom import make_phantom
from covseg_ray.service.retries import Response

ALONE = "the model in memory"
FILMS = 64
WARM_SECONDS = 3.0
STOP_SECONDS = 30.0
TIMEOUT_SECONDS = 120.0
ACCEPT = "image/png"


def numbers(text: str) -> tuple[int, ...]:
    """``1,16`` as its numbers. Raises UsageError."""
    try:
        found = tuple(int(part) for part in text.split(","))
    except ValueError:
        found = ()
    if not found or min(found) < 1:
        raise UsageError(f"--clients {text}: give numbers from 1, with commas between")
    return found


def bench_serve(uri: str, clients: Sequence[int], seconds: float, rounds: int, say: Say) -> Bench:
    """The model in memory before, the endpoint under each number of clients in turn, the model in memory after."""
    bundle = load_bundle(uri)
    size = bundle.spec.input_size
    film = encode_png(make_phantom(0, 0, size).image)
    with in_process(Models, FILMS, variables=KEEP_MEMORY) as models:
        models("add", ALONE, uri)
        alone = {ALONE: partial(models, "rate", ALONE)}
        before = in_turn(rounds, alone, say)[ALONE]
        with _serving(uri) as url:
            run_load(url, film, cores(), WARM_SECONDS)
            loads = [
                [_reported(run_load(url, film, number, seconds), say) for number in clients] for _ in range(rounds)
            ]
        after = in_turn(rounds, alone, say)[ALONE]
    against = Rate(ALONE, before + after, f"films/s, {cores()} cores")
    rates = tuple(_rate(each) for each in zip(*loads, strict=True))
    return Bench("serve", "requests/s", machine(), against, rates, advice(rates, against))


def _reported(load: Load, say: Say) -> Load:
    say(f"{load.clients} clients: {load.per_second:.1f} requests/s")
    return load


def _rate(loads: Sequence[Load]) -> Rate:
    slowest = max(load.p99_ms for load in loads)
    middle = sorted(load.p50_ms for load in loads)[len(loads) // 2]
    refused, failed = sum(load.refused for load in loads), sum(load.failed for load in loads)
    note = f"p50 {middle:.0f} ms, p99 {slowest:.0f} ms, {refused:,} refused, {failed:,} failed"
    return Rate(f"{loads[0].clients} clients", tuple(load.per_second for load in loads), note)


def advice(rates: Sequence[Rate], against: Rate) -> tuple[str, ...]:
    best = max(rates, key=lambda rate: rate.median)
    return (
        f"{best.name}: {best.median / against.median:.0%} of {against.name}; the rest is HTTP, decoding and Ray Serve",
        "more requests a second take more replicas (replicas in SERVE.yaml), each on cores of its own, or a GPU",
    )


@contextmanager
def _serving(uri: str) -> Iterator[str]:
    """``covseg-ray serve`` in a process of its own on loopback, ready; gives its URL."""
    words = [sys.executable, "-m", "covseg_ray", "serve", "--model", uri, "--port", str(_free_port()), "--json"]
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=errors, text=True)
        try:
            yield _url(process.stdout, errors)
        finally:
            process.terminate()
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _url(output: IO[str] | None, errors: IO[str]) -> str:
    line = output.readline() if output else ""
    if not line:
        errors.seek(0)
        lines = errors.read().strip().splitlines()
        raise CovsegError(f"covseg-ray serve did not start: {lines[-1] if lines else 'it wrote no error'}")
    return str(json.loads(line)["url"])


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


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

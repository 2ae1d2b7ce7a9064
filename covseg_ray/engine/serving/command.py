"""An endpoint for as long as the command runs, on this machine or on a cluster."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import NoReturn

import torch
from ray import serve
from ray.serve.config import HTTPOptions
from ray.serve.schema import LoggingConfig

from covseg_ray.config.serve import APPLICATION, Endpoint
from covseg_ray.engine.serving.app import build
from covseg_ray.engine.session import cores, session
from covseg_ray.errors import CovsegError

# A request crosses fewer threads and takes gRPC from the proxy, which costs less than Ray's calls of actors; the
# controller looks twice a second instead of ten times, and metrics are handed on once instead of ten times; Serve's own
# lines stay in its log files; and in HAProxy mode the end waits 5 s, not 30, which are there for load balancers beyond
# the machine.
QUICK = {
    "RAY_SERVE_PROXY_USE_GRPC": "1",
    "RAY_SERVE_CONTROL_LOOP_INTERVAL_S": "0.5",
    "RAY_SERVE_METRICS_EXPORT_INTERVAL_MS": "1000",
    "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",
    "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "0",
    "RAY_SERVE_REQUEST_PATH_LOG_BUFFER_SIZE": "1000",
    "RAY_SERVE_LOG_TO_STDERR": "0",
    "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "5",
}

Say = Callable[[str], None]


def run(
    wanted: Endpoint,
    read_again: Callable[[], Endpoint],
    ready: Callable[[Endpoint], None],
    say: Say,
    address: str | None = None,
    allow_open: bool = False,
) -> NoReturn:
    """Serve until SIGTERM or Ctrl-C; with SIGHUP what ``read_again`` gives takes the place of what is served.

    What cannot be served is refused in a line, and what was there before serves on. On a cluster every node that has a
    replica answers.
    """

    def fit(found: Endpoint) -> Endpoint:
        return found if address else replace(found, serving=found.serving.fitted(cores(), torch.cuda.device_count()))

    wanted = fit(wanted)
    with session(address, _cores(wanted), allow_open, QUICK), _hangups() as await_hangup, _endpoint(wanted):
        ready(wanted)
        while True:
            await_hangup()
            wanted = _again(wanted, lambda: fit(read_again()), say)


@contextmanager
def _endpoint(wanted: Endpoint) -> Iterator[None]:
    """Ray Serve with the endpoint in it. A cluster would serve it on when the block has ended."""
    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    serve.start(
        proxy_location="EveryNode",
        http_options=HTTPOptions(host=wanted.host, port=wanted.port),
        logging_config=LoggingConfig(enable_access_log=False),
    )
    try:
        _deploy(wanted)
        yield
    finally:
        serve.delete(APPLICATION)


def _again(served: Endpoint, read_again: Callable[[], Endpoint], say: Say) -> Endpoint:
    try:
        wanted = read_again()
        _deploy(wanted)
    except CovsegError as error:
        say(f"error: {error}; what was served before is served on")
        return served
    say(f"now serving {wanted}")
    return wanted


def _deploy(wanted: Endpoint) -> None:
    try:
        serve.run(build(wanted.serving.model_dump()), name=APPLICATION, route_prefix="/")
    except RuntimeError as error:  # of Serve: replicas did not come up
        raise CovsegError(f"the models did not come up: {' '.join(str(error).split())[:500]}") from None


@contextmanager
def _hangups() -> Iterator[Callable[[], None]]:
    """A function that waits for the next SIGHUP. SIGTERM and Ctrl-C leave it by their exceptions."""
    hung_up = threading.Event()
    before = signal.signal(signal.SIGHUP, lambda number, frame: hung_up.set())

    def wait() -> None:
        while not hung_up.wait(0.5):  # a wait without end would keep Python from its signals
            continue
        hung_up.clear()

    try:
        yield wait
    finally:
        signal.signal(signal.SIGHUP, before)


def _cores(wanted: Endpoint) -> int:
    served = wanted.serving
    return served.cores * served.replicas[1] * len(served.models)

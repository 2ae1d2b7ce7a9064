"""``covseg-ray serve``: an endpoint for as long as the command runs, on this machine or on a cluster."""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from queue import SimpleQueue
from typing import NoReturn

import torch
from ray import serve
from ray.serve.config import HTTPOptions
from ray.serve.schema import LoggingConfig

from covseg_ray.config.serve import APPLICATION, Endpoint
from covseg_ray.engine.serving.app import build
from covseg_ray.engine.session import cores, session
from covseg_ray.errors import CovsegError

# A request crosses fewer threads and takes gRPC from the proxy, which costs less than Ray's actor calls; the controller
# loops twice a second instead of ten times, and metrics are exported once a second instead of ten times; Serve's own
# lines stay in its log files; and in HAProxy mode shutdown waits 5 s instead of the 30 s for external load balancers.
SERVE_ENVIRONMENT = {
    "RAY_SERVE_PROXY_USE_GRPC": "1",
    "RAY_SERVE_CONTROL_LOOP_INTERVAL_S": "0.5",
    "RAY_SERVE_METRICS_EXPORT_INTERVAL_MS": "1000",
    "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",
    "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "0",
    "RAY_SERVE_REQUEST_PATH_LOG_BUFFER_SIZE": "1000",
    "RAY_SERVE_LOG_TO_STDERR": "0",
    "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "5",
}

Report = Callable[[str], None]


def run(
    endpoint: Endpoint,
    reload: Callable[[], Endpoint],
    on_ready: Callable[[Endpoint], None],
    report: Report,
    address: str | None = None,
    allow_open: bool = False,
) -> NoReturn:
    """Serve until SIGTERM or Ctrl-C; on SIGHUP deploy what ``reload`` returns.

    A new endpoint that cannot be deployed is reported in one line, and the old one stays. On a cluster every node with
    a replica answers.
    """

    def sized(found: Endpoint) -> Endpoint:
        fitting = found.config if address else found.config.sized_for(cores(), torch.cuda.device_count())
        return found.model_copy(update={"config": fitting})

    endpoint = sized(endpoint)
    config = endpoint.config
    with (
        session(address, config.cores * config.replicas[1] * len(config.models), allow_open, SERVE_ENVIRONMENT),
        _hangups() as wait_for_hangup,
        _deployed(endpoint),
    ):
        on_ready(endpoint)
        while True:
            wait_for_hangup()
            try:
                changed = sized(reload())
                _deploy(changed)
            except CovsegError as error:
                report(f"error: {error}; the previous endpoint stays in service")
            else:
                report(f"now serving {changed}")


@contextmanager
def _deployed(endpoint: Endpoint) -> Iterator[None]:
    """Ray Serve with the endpoint in it, deleted at the end: a cluster would keep it."""
    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    serve.start(
        proxy_location="EveryNode",
        http_options=HTTPOptions(host=endpoint.host, port=endpoint.port),
        logging_config=LoggingConfig(enable_access_log=False),
    )
    try:
        _deploy(endpoint)
        yield
    finally:
        serve.delete(APPLICATION)


def _deploy(endpoint: Endpoint) -> None:
    try:
        serve.run(build(endpoint.config.model_dump()), name=APPLICATION, route_prefix="/")
    except RuntimeError as error:  # from Serve: replicas did not start
        raise CovsegError(f"the models did not start: {' '.join(str(error).split())[:500]}") from None


@contextmanager
def _hangups() -> Iterator[Callable[[], int]]:
    """A function that waits for the next SIGHUP. SIGTERM and Ctrl-C end it by their exceptions."""
    received: SimpleQueue[int] = SimpleQueue()  # whose put may interrupt its get; the set of an Event may not
    previous = signal.signal(signal.SIGHUP, lambda number, frame: received.put(number))
    try:
        yield received.get
    finally:
        signal.signal(signal.SIGHUP, previous)

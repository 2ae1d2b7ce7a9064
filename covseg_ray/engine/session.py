"""Connect to a Ray cluster or start one on this machine, for the length of one command."""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from threading import current_thread, main_thread
from types import MappingProxyType
from typing import Any

import ray
from ray._private import ray_constants
from ray.exceptions import RayTaskError
from ray.util import ActorPool
from ray.util.queue import Queue
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from covseg_ray.engine.access import refuse_open
from covseg_ray.errors import EXIT_SIGTERM, CovsegError, UsageError

# Ray schedules by counted CPUs, not by cores. Workers that train hold theirs for the whole run, so a two-core machine
# counts two more: with none left over, the tasks that feed the workers would wait for ever.
SPARE_CPUS = 2
# A training step frees and allocates large tensors at once. By default glibc returns such memory to the system each
# time; with these settings the pages stay, and page faults fall to a fraction.
KEEP_MEMORY = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_TRIM_THRESHOLD_": str(2**33),
    "MALLOC_MMAP_THRESHOLD_": str(2**33),
}
# On one machine these processes are not needed: no cloud preempts it, and one reader is enough for the footers of the
# records of a stopped run.
ON_ONE_MACHINE = {
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_DATA_PARQUET_FOOTER_NUM_ACTORS": "1",
}
# Ray replaces 127.0.0.1 by the machine's own address and listens on every interface, unless clusters are disabled: by a
# variable named after the two systems where that is the default, read when Ray is imported.
NO_CLUSTER = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
CONNECT_SECONDS = 10.0
STARTS = 2  # Ray gives its processes 30 s to start, too few where other programs keep the processors busy
SLOW_START = "timed out during startup"
STDERR = 2
RETRY_ADVICE = "\nFailed to apply UDF transform after "
# Ray's own lines are for its developers; its logs stay in the session's folder.
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS": "0",
    "RAY_DATA_LOG_LEVEL": "ERROR",
}


class _NoProgress:
    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *arguments, **named: None


NO_PROGRESS: Any = _NoProgress()  # ignores whatever a run reports


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0))


def alive_nodes() -> list[dict[str, Any]]:
    """The session's nodes as Ray tells them, without those that are gone."""
    return [node for node in ray.nodes() if node["Alive"]]


def counted(resource: str) -> float:
    """How much of a resource, such as CPU or GPU, Ray counts on all of the session's nodes."""
    return float(ray.cluster_resources().get(resource, 0))


def predicting_pool(kind: type[Any], workers: int, *given: Any) -> ActorPool:
    """So many actors of a class, made with what is given: each with a CPU and, where there is one for each, a GPU."""
    gpus = 1 if counted("GPU") >= workers else 0
    actor = ray.remote(num_cpus=1, num_gpus=gpus, max_restarts=3, max_task_retries=3)(kind)
    return ActorPool([actor.remote(*given) for _ in range(workers)])


def open_messages() -> Queue:
    """A queue from tasks and actors to the command, on this node: the loss of another must not take it away."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return Queue(actor_options={"num_cpus": 0, "scheduling_strategy": here})


@contextmanager
def session(
    address: str | None = None,
    workers: int = 1,
    allow_open: bool = False,
    variables: Mapping[str, str] = MappingProxyType({}),
) -> Iterator[None]:
    """A Ray session: the one that already runs in this process, the cluster at ``address`` (``host:port`` or ``auto``),
    or one started here on loopback and ended with the block. ``variables`` are set in its processes, unless they are.

    Raises UsageError for a cluster that listens beyond loopback and wants no token, unless ``allow_open``, and for an
    address that cannot be one; CovsegError where no cluster answers; and what tasks and actors raised."""
    # Ray prints on standard output when a worker dies; standard output is for the result alone.
    with redirect_stdout(sys.stderr), _with_own_errors():
        if ray.is_initialized():
            yield
            return
        dashboard = _start(address, workers, KEEP_MEMORY | dict(variables))
        try:
            if address and not allow_open:
                refuse_open((node["NodeManagerAddress"] for node in alive_nodes()), f"http://{dashboard}")
            with _own_exit_code():
                yield
        finally:
            ray.shutdown()


@contextmanager
def _with_own_errors() -> Iterator[None]:
    """An error of covseg-ray in a task or an actor, without Ray's traceback in its text."""
    try:
        yield
    except RayTaskError as error:
        if isinstance(error.cause, CovsegError):
            raise original_error(error) from None
        raise


def original_error(error: RayTaskError) -> Exception:
    """What a task or an actor raised, without the lines on retries that Ray Data appends."""
    cause: Exception = error.cause
    if cause.args and isinstance(cause.args[0], str):
        cause.args = (cause.args[0].partition(RETRY_ADVICE)[0], *cause.args[1:])
    return cause


@contextmanager
def _own_exit_code() -> Iterator[None]:
    """On SIGTERM, exit in order with its own exit code; ``ray.init`` has set another handler."""
    if current_thread() is not main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(EXIT_SIGTERM))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def without_rays_own_lines() -> Iterator[None]:
    """What Python writes to standard error arrives there; Ray's C++ side, which warns there at each start of an actor
    pool (github.com/ray-project/ray/issues/57733), is left to its log files."""
    if not _stderr_is_the_process_own():
        yield
        return
    with os.fdopen(os.dup(STDERR), "w", buffering=1, errors="backslashreplace") as ours, redirect_stderr(ours):
        with Path(os.devnull).open("w") as nowhere:
            os.dup2(nowhere.fileno(), STDERR)
        try:
            yield
        finally:
            os.dup2(ours.fileno(), STDERR)


def _stderr_is_the_process_own() -> bool:
    try:
        return sys.stderr.fileno() == STDERR
    except (AttributeError, OSError):  # replaced, as by a notebook
        return False


def keep_replica_to_loopback() -> None:
    """In a session of this machine, bind to loopback the port that each of Serve's replicas opens for others of its
    kind: on every interface otherwise, for pickled requests of anybody. To be called before the replica is ready."""
    if os.environ.get(NO_CLUSTER) != "0":
        return
    from ray.serve._private import replica

    bind = replica.add_port_to_grpc_server  # type: ignore[attr-defined]

    def to_loopback(server: object, address: str) -> int:
        return int(bind(server, address.replace("[::]", "127.0.0.1")))

    replica.add_port_to_grpc_server = to_loopback  # type: ignore[attr-defined]


def _start(address: str | None, workers: int, variables: dict[str, str]) -> str | None:
    """Connect or start; gives the dashboard's ``host:port``, None without one."""
    for name, value in (QUIET | variables | ({} if address else ON_ONE_MACHINE)).items():
        os.environ.setdefault(name, value)
    for logger in ("ray", "ray.data", "ray.train"):
        logging.getLogger(logger).setLevel(logging.ERROR)
    if address:
        workers_get = {"env_vars": {name: os.environ[name] for name in variables}}
        try:
            _check_listening(address)
            return ray.init(
                address=address, runtime_env=workers_get, logging_level=logging.ERROR, log_to_driver=False
            ).dashboard_url
        except ConnectionError as error:  # Ray's own as well, where auto finds no cluster
            raise CovsegError(
                f"--address {address}: no Ray cluster answers there; give HOST:PORT of its head, as HEAD:6379, or auto "
                "on one of its nodes"
            ) from error
    os.environ[NO_CLUSTER], ray_constants.ENABLE_RAY_CLUSTER = "0", False
    for _ in range(STARTS):
        try:
            return ray.init(
                address="local",
                num_cpus=max(os.cpu_count() or 1, workers) + SPARE_CPUS,
                _node_ip_address="127.0.0.1",
                include_dashboard=False,
                logging_level=logging.ERROR,
                log_to_driver=False,
            ).dashboard_url
        except Exception as error:  # what Ray raises, of no class of its own
            if SLOW_START not in str(error):
                raise
    raise CovsegError("Ray did not start in 30 s, twice: end other programs that keep the CPUs busy, and try again")


def _check_listening(address: str) -> None:
    """Raise ConnectionError where nothing listens: Ray would try for over a minute, and write to standard error."""
    if address == "auto":
        return
    host, _, port = address.rpartition(":")
    if not host or "/" in host or not port.isdigit():
        raise UsageError(f"--address {address}: give HOST:PORT of the cluster's head, or auto on one of its nodes")
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()
    except OSError as error:  # no such host and no answer in time among them
        raise ConnectionError(str(error)) from error

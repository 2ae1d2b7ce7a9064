"""The nodes of the Ray cluster that this process is on: the checks of one machine on each, by a task that waits for no
CPU, and what only several of them can show."""

from __future__ import annotations

import importlib
import secrets
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from covseg_ray.engine.access import authentication, is_loopback
from covseg_ray.engine.cluster import doctor
from covseg_ray.engine.cluster.doctor import Finding
from covseg_ray.engine.session import alive_nodes, session
from covseg_ray.errors import StorageError

ANSWER_SECONDS = 60.0
HEAD = "node:__internal_head__"  # a resource that the head node alone has
# Where Ray is set to hide GPUs from tasks that ask for none, this one sees them all the same.
SEES_GPUS = {"env_vars": {"RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}}
OPEN_ADVICE = "start every node with RAY_AUTH_MODE=token and one RAY_AUTH_TOKEN"
NODE_ADVICE = "see raylet.out and raylet.err in the node's /tmp/ray/session_latest/logs"


@dataclass(frozen=True, slots=True)
class Node:
    id: str
    name: str
    head: bool
    cpus: float
    gpus: float


@dataclass(frozen=True, slots=True)
class Probe:
    """A file that one node wrote for the others to read."""

    folder: str
    uri: str
    data: bytes


def examine(storage: str | None) -> list[Finding]:
    try:
        with session("auto", allow_open=True):  # an open one is a finding, not refused
            nodes = named(alive_nodes())
            with shared_file(storage if len(nodes) > 1 else None) as probe:
                found = ask(nodes, storage, probe)
    except (ConnectionError, RuntimeError, RayError) as error:
        return [Finding("cluster", "fail", _one_line(error), "run this on a node of a cluster that is up")]
    cpus, gpus = sum(node.cpus for node in nodes), sum(node.gpus for node in nodes)
    count = Finding("nodes", "ok", f"{len(nodes)} alive, {cpus:g} CPUs, {gpus:g} GPUs")
    if storage is None:
        advice = "give --storage URI, as the jobs will use it"
        return [count, *found, Finding("storage", "warn", "not examined", advice)]
    return [count, *found]


def named(table: Sequence[Mapping[str, Any]]) -> list[Node]:
    """The nodes of Ray's table, the head first. Where several have one name, their ids tell them apart."""
    names = Counter(row["NodeName"] for row in table)
    nodes = []
    for row in table:
        has, node_id, name = row["Resources"], row["NodeID"], row["NodeName"]
        shown = f"{name} ({node_id[:8]})" if names[name] > 1 else name
        nodes.append(Node(node_id, shown, HEAD in has, has.get("CPU", 0.0), has.get("GPU", 0.0)))
    return sorted(nodes, key=lambda node: (not node.head, node.name))


def ask(nodes: Sequence[Node], storage: str | None, probe: Probe | None) -> list[Finding]:
    """The findings of every node, in the order of ``nodes``; one that gives none in time is itself a finding."""
    url = ray.init(ignore_reinit_error=True).dashboard_url  # of the session that runs
    refs = {}
    for node in nodes:
        there = ray.remote(examine_node).options(
            num_cpus=0,
            max_retries=0,
            runtime_env=SEES_GPUS,
            scheduling_strategy=NodeAffinitySchedulingStrategy(node.id, soft=False),
        )
        refs[there.remote(node.gpus, storage, probe, url if node.head else None)] = node
    _, late = ray.wait(list(refs), num_returns=len(refs), timeout=ANSWER_SECONDS)
    found = [replace(each, node=node.name) for ref, node in refs.items() for each in _answer(ref, ref in late)]
    for ref in late:
        ray.cancel(ref, force=True)
    return same_versions(found, [doctor.python(), doctor.ray_version()])


def examine_node(gpus: float, storage: str | None, probe: Probe | None, dashboard_url: str | None) -> list[Finding]:
    """The findings of the node that this runs on."""
    found = [*doctor.examine(storage), counted_gpus(gpus)]
    if probe:
        found.append(shared_storage(probe))
    if dashboard_url:
        port = int(dashboard_url.rpartition(":")[2])
        found.append(dashboard(listening(port), authentication(f"http://{dashboard_url}") == "token"))
    return found


def _answer(ref: ray.ObjectRef[list[Finding]], is_late: bool) -> list[Finding]:
    if is_late:
        return [Finding("node", "fail", f"no answer within {ANSWER_SECONDS:.0f} s", NODE_ADVICE)]
    try:
        return ray.get(ref)
    except RayError as error:
        return [Finding("node", "fail", _one_line(error), NODE_ADVICE)]


def same_versions(found: Sequence[Finding], ours: Sequence[Finding]) -> list[Finding]:
    """``found`` with a failure for each that differs from the one of its name in ``ours``."""
    wanted = {finding.name: finding.detail for finding in ours}
    advice = "install the same on every node: Ray runs one version of itself and of Python, to the last number"
    return [
        each
        if each.status == "fail" or wanted.get(each.name, each.detail) == each.detail
        else replace(each, status="fail", detail=f"{each.detail}, the head has {wanted[each.name]}", advice=advice)
        for each in found
    ]


def counted_gpus(counted: float) -> Finding:
    """Ray places work by the GPUs that it counts, torch runs it on those that it sees."""
    try:
        import torch
    except (ImportError, OSError):
        return Finding("GPUs", "fail", "unknown without torch", "install torch first")
    seen = torch.cuda.device_count()
    detail = f"Ray counts {counted:g}, torch sees {seen}"
    if counted > seen:
        advice = "install a CUDA build of torch that fits the driver, or start the node with the --num-gpus it has"
        return Finding("GPUs", "fail", detail, advice)
    if counted < seen:
        return Finding("GPUs", "warn", detail, f"start the node with --num-gpus {seen}, or the rest lie idle")
    return Finding("GPUs", "ok", detail)


@contextmanager
def shared_file(storage: str | None) -> Iterator[Probe | None]:
    """A file below ``storage`` for the length of the block; None where it cannot be written: each node reports it."""
    from covseg_ray.storage.filesystem import delete, join, locate, write_bytes

    if storage is None:
        yield None
        return
    try:
        folder = locate(storage).uri
        probe = Probe(folder, join(folder, f".covseg-ray-doctor-{secrets.token_hex(4)}"), secrets.token_bytes(64))
        write_bytes(probe.uri, probe.data)
    except StorageError:
        yield None
        return
    try:
        yield probe
    finally:
        with suppress(StorageError):
            delete(probe.uri)


def shared_storage(probe: Probe) -> Finding:
    from covseg_ray.storage.filesystem import read_bytes

    try:
        if read_bytes(probe.uri) == probe.data:
            return Finding("shared storage", "ok", f"{probe.folder} is the same as on the job's node")
        why = "it holds other bytes"
    except StorageError as error:
        why = str(error).replace(f"{probe.uri}: ", "")
    advice = "use s3://, or a folder that every node mounts"
    return Finding("shared storage", "fail", f"{probe.folder}: a file that the job wrote cannot be read: {why}", advice)


def listening(port: int) -> list[str]:
    """The addresses of this machine on which something waits for TCP connections at ``port``."""
    sockets = importlib.import_module("psutil").net_connections("tcp")  # Ray brings it
    return sorted({each.laddr.ip for each in sockets if (each.status, each.laddr.port) == ("LISTEN", port)})


def dashboard(addresses: Sequence[str], wants_token: bool) -> Finding:
    """Whether others than the head's own users reach the dashboard, and without a token."""
    where = ", ".join(addresses)
    if not addresses:
        return Finding("dashboard", "warn", "where it listens cannot be seen", "see the head's --dashboard-host")
    if all(map(is_loopback, addresses)):
        return Finding("dashboard", "ok", f"listens on {where} alone")
    if wants_token:
        return Finding("dashboard", "ok", f"listens on {where}, and wants the token")
    advice = f"{OPEN_ADVICE}, or the head with --dashboard-host 127.0.0.1"
    return Finding("dashboard", "fail", f"listens on {where} and wants no token: it runs anybody's commands", advice)


def _one_line(error: Exception) -> str:
    """The error's last line; of a task's error, the last line of its traceback."""
    text = str(error).strip()
    return text.splitlines()[-1].strip() if isinstance(error, RayTaskError) else " ".join(text.split())

"""``covseg-ray doctor --address``: a sound cluster passes, and what is wrong with one is named with its node."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from clusters import Cluster, cluster, shell
from runs import descendants, send, title

from covseg_ray import __version__
from covseg_ray.engine.cluster import doctor_nodes

# Clusters take the same ports: one at a time.
pytestmark = [pytest.mark.xdist_group("clusters"), pytest.mark.timeout(600)]
RAY = importlib.metadata.version("ray")
WIDE = {"COLUMNS": "400", "RAY_AUTH_TOKEN_PATH": ""}
HERE, THERE, PORT = "127.0.0.1", "127.0.0.2", 6379
WITH_LESS_TIME = """
import json
from dataclasses import asdict
from covseg_ray.engine.cluster import doctor_nodes
doctor_nodes.ANSWER_SECONDS = 25.0
print(json.dumps([asdict(finding) for finding in doctor_nodes.examine("/tmp")]))
"""


@pytest.fixture(scope="module")
def here() -> Iterator[Cluster]:
    with cluster() as found:
        yield found


def test_a_sound_cluster_passes_and_nothing_is_left_behind(here: Cluster, tmp_path: Path) -> None:
    done = here.command(["doctor", "--storage", str(tmp_path), "--json"])
    findings = {finding["name"]: finding for finding in json.loads(done.stdout)["findings"]}
    details = {name: finding["detail"] for name, finding in findings.items()}
    assert (done.returncode, {name for name in details if findings[name]["status"] == "fail"}) == (0, set()), (
        done.stdout
    )
    assert details["cluster"] == f"{here.url} runs Ray {RAY}, as does this machine"
    assert details["token"] == "a request without it is refused (401)"
    assert details["dashboard"] == "listens on 127.0.0.1 alone"
    assert details["nodes"] == "1 alive, 4 CPUs, 0 GPUs"
    assert details["storage"] == f"{tmp_path} can be written, read and deleted"
    assert (details["Python"], details["Ray"], details["covseg-ray"]) == (platform.python_version(), RAY, __version__)
    assert details["GPUs"] == "Ray counts 0, torch sees 0"
    assert {name for name, finding in findings.items() if not finding["node"]} == {"cluster", "token", "nodes"}
    assert "asking every node, each has 60 s to answer" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("token", "message"),
    [
        ({"RAY_AUTH_MODE": "disabled", "RAY_AUTH_TOKEN": ""}, "{url} asks for a token"),
        ({"RAY_AUTH_TOKEN": "0" * 64}, "{url} refuses this token"),
        (
            {"RAY_AUTH_TOKEN": "", "RAY_AUTH_TOKEN_PATH": "/nowhere"},
            "RAY_AUTH_TOKEN_PATH is set but file cannot be opened or is empty: /nowhere",
        ),
    ],
    ids=["none", "wrong", "lost"],
)
def test_without_the_token_one_line_says_so_and_nothing_is_sent(
    here: Cluster, token: dict[str, str], message: str
) -> None:
    done = here.command(["doctor"], **(WIDE | token))
    advice = "set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH to the cluster's token"
    assert done.stdout.rstrip() == f"fail  cluster  {message.format(url=here.url)}: {advice}"
    assert (done.returncode, done.stderr) == (1, "")


def test_storage_that_the_nodes_cannot_write_fails_by_the_node(here: Cluster, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    done = here.command(["doctor", "--storage", str(tmp_path / "file/below")], **WIDE)
    assert done.returncode == 1, done.stderr
    place = f"{tmp_path}/file/below"
    failed = [" ".join(line.split()) for line in done.stdout.splitlines() if line.startswith("fail")]
    assert failed == [f"fail storage on 127.0.0.1: {place}: [Errno 20] Not a directory: '{place}'"]


def test_a_path_that_nodes_cannot_know_is_a_usage_error(here: Cluster) -> None:
    done = here.command(["doctor", "--storage", "films"])
    assert done.returncode == 2
    assert done.stderr == "error: --storage films: a cluster's nodes need a full path, or s3://BUCKET/PREFIX\n"


def test_nodes_come_with_the_head_first_and_names_apart() -> None:
    def row(node_id: str, name: str, **resources: float) -> dict[str, object]:
        return {"NodeID": node_id * 8, "NodeName": name, "Resources": resources}

    head = row("ad", "b", CPU=2.0) | {"Resources": {"CPU": 2.0, doctor_nodes.HEAD: 1.0}}
    rows = [row("0a", "a", GPU=4.0), row("de", "c"), head, row("1c", "c")]
    found = doctor_nodes.named(rows)
    assert [node.name for node in found] == ["b", "a", "c (1c1c1c1c)", "c (dededede)"]
    assert [(node.head, node.cpus, node.gpus) for node in found[:2]] == [(True, 2.0, 0.0), (False, 0.0, 4.0)]


@dataclass(frozen=True)
class TwoNodes:
    """A head at 127.0.0.1 and a worker at 127.0.0.2, alone in a network of their own. The head's PATH has no python and
    its dashboard listens on every interface; the worker has another /dev/shm, and another disk at ``unshared``."""

    inside: list[str]
    environment: dict[str, str]
    worker: subprocess.Popen[bytes]
    unshared: Path

    def python(self, *words: str) -> subprocess.CompletedProcess[str]:
        environment = shell() | self.environment | WIDE | {"RAY_ADDRESS": f"{HERE}:{PORT}"}
        command = [*self.inside, sys.executable, *words]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)


@pytest.fixture(scope="module")
def two_nodes() -> Iterator[TwoNodes]:
    own = ["unshare", "--net", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child"]
    if os.geteuid() or subprocess.run([*own, "true"], check=False).returncode:
        pytest.skip("a network of their own needs root")
    folder = Path(tempfile.mkdtemp(prefix="covseg-"))  # Ray's sockets need a short path
    # Without Ray's niceness: beside other tests the node that is well would otherwise not answer in time either.
    environment = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32), "RAY_worker_niceness": "0"}
    alone = subprocess.Popen([*own, "sh", "-c", "ip link set lo up && exec sleep 600"])
    try:
        while not (first := descendants(alone.pid)):
            time.sleep(0.05)
        inside = ["nsenter", f"--target={first[0]}", "--net", "--mount", "--pid"]
        yield TwoNodes(inside, environment, start_two_nodes(inside, environment, folder), folder / "unshared")
    finally:
        alone.kill()  # and with its first process every one in there
        alone.wait()
        shutil.rmtree(folder, ignore_errors=True)


def start_two_nodes(inside: list[str], environment: dict[str, str], folder: Path) -> subprocess.Popen[bytes]:
    """The worker's process, once both are up."""
    for name in ("bin", "unshared"):
        (folder / name).mkdir()
    (folder / "bin/bash").symlink_to(str(shutil.which("bash")))  # with which Ray starts its workers
    ray = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--disable-usage-stats", "--num-cpus=1"]
    board = ["--dashboard-host=0.0.0.0", f"--temp-dir={folder}/ray"]
    begin([*inside, *ray, "--head", f"--node-ip-address={HERE}", f"--port={PORT}", *board], environment, folder / "bin")
    disks = f"mount -t tmpfs -o size=100m none /dev/shm && mount -t tmpfs none {folder}/unshared"
    joins = [*ray, f"--address={HERE}:{PORT}", f"--node-ip-address={THERE}", "--object-store-memory=78643200"]
    return begin([*inside, "unshare", "--mount", "sh", "-c", f'{disks} && exec "$@"', "sh", *joins], environment)


def begin(command: list[str], environment: dict[str, str], path: Path | None = None) -> subprocess.Popen[bytes]:
    """A node, once it says that it is up; ``path`` is its whole PATH, with the end of ``command`` given in full."""
    path_too = {"PATH": str(path)} if path else {}
    command = [str(shutil.which(command[0])), *command[1:]]
    node = subprocess.Popen(
        command, env=shell() | environment | path_too, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert node.stdout
    for line in node.stdout:
        if b"This command will now block" in line:
            return node
    raise AssertionError("the node did not come up")


def test_where_nodes_differ_each_is_named(two_nodes: TwoNodes) -> None:
    done = two_nodes.python("-m", "covseg_ray", "doctor", "--address", "auto", "--storage", str(two_nodes.unshared))
    lines = [" ".join(line.split()) for line in done.stdout.splitlines()]
    place = two_nodes.unshared
    failed = [line for line in lines if line.startswith("fail")]
    assert (done.returncode, len(failed)) == (1, 1), done.stdout + done.stderr
    begins = f"fail shared storage on {THERE}: {place}: a file that the job wrote cannot be read: not found"
    assert failed[0].startswith(begins)
    assert failed[0].endswith(": use s3://, or a folder that every node mounts")
    assert f"ok shared storage on {HERE}: {place} is the same as on the job's node" in lines
    assert f"ok storage {place} can be written, read and deleted" in lines
    assert "ok nodes 2 alive, 2 CPUs, 0 GPUs" in lines
    assert f"ok Python {platform.python_version()}" in lines
    assert "ok dashboard listens on 0.0.0.0, and wants the token" in lines
    assert any(line.startswith(f"warn /dev/shm on {THERE}: 0.1 GiB, wanted are ") for line in lines)
    assert list(place.iterdir()) == []


def test_a_job_that_cannot_run_is_a_finding_that_says_why(two_nodes: TwoNodes) -> None:
    done = two_nodes.python("-m", "covseg_ray", "doctor", "--address", "http://127.0.0.1:8265")
    (job,) = (line.split()[1].rstrip(":") for line in done.stderr.splitlines() if line.startswith("job "))
    *_, last = done.stdout.splitlines()
    begin = f"fail  job      {job} ended with exit code 127 and without findings: /bin/sh: 1: python: not found: "
    assert last.rstrip() == f"{begin}covseg-ray jobs logs {job} --address http://127.0.0.1:8265"
    assert done.returncode == 1


def test_a_node_that_does_not_answer_is_named_in_time(two_nodes: TwoNodes) -> None:
    """The worker's raylet is stopped, as by a machine that hangs: Ray itself counts the node as alive for a minute."""
    (raylet,) = (pid for pid in descendants(two_nodes.worker.pid) if "/raylet/raylet" in title(pid).split("\0")[0])
    send(raylet, signal.SIGSTOP)
    began = time.monotonic()
    findings = json.loads(two_nodes.python("-c", WITH_LESS_TIME).stdout)
    assert time.monotonic() - began < 60
    advice = "see raylet.out and raylet.err in the node's /tmp/ray/session_latest/logs"
    assert [each for each in findings if each["node"] == THERE] == [
        {"name": "node", "status": "fail", "detail": "no answer within 25 s", "advice": advice, "node": THERE}
    ]
    assert {"Python", "storage", "torch"} <= {each["name"] for each in findings if each["node"] == HERE}

"""The several-node cluster of ``cluster/local``, with an S3 server that its nodes reach."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlparse

import s3fs
from clusters import Cluster, await_jobs_api, shell
from moto.server import ThreadedMotoServer
from places import ROOT
from runs import TRAINER, title
from servers import free_port

SCRIPT = ROOT / "cluster/local/cluster"
BRIDGE = "10.77.0.1"


@dataclass(frozen=True)
class LocalCluster(Cluster):
    """``nodes`` is the environment with which its nodes start, the credentials for ``bucket`` among it."""

    nodes: dict[str, str]
    bucket: str

    def do(self, *words: str) -> str:
        return script(words, self.nodes)

    def up(self, workers: int) -> None:
        self.do("up", str(workers))
        await_jobs_api(self)

    def pids(self, node: str) -> list[int]:
        done = subprocess.run(["ip", "netns", "pids", f"covseg-{node}"], capture_output=True, text=True, check=True)
        return [int(pid) for pid in done.stdout.split()]

    def training_nodes(self) -> list[str]:
        """The nodes on which a training worker runs, by the place of the first process that is one."""
        nodes = re.findall(r"^(\S+)", self.do("status"), re.MULTILINE)
        return [node for node in nodes if any(title(pid).startswith(TRAINER) for pid in self.pids(node))]

    @property
    def storage(self) -> s3fs.S3FileSystem:
        return s3fs.S3FileSystem(
            key=self.nodes["AWS_ACCESS_KEY_ID"],
            secret=self.nodes["AWS_SECRET_ACCESS_KEY"],
            endpoint_url=self.nodes["AWS_ENDPOINT_URL"],
            use_listings_cache=False,
        )

    def epochs(self, name: str) -> int:
        """How many epochs stand in a run's ``metrics.jsonl``."""
        path = f"{self.bucket}/runs/{name}/metrics.jsonl"
        return self.storage.cat_file(path).count(b"\n") if self.storage.exists(path) else 0

    def await_epoch(self, name: str, epoch: int, submitted: subprocess.Popen[str], timeout: float = 300) -> None:
        deadline = time.monotonic() + timeout
        while self.epochs(name) < epoch:
            assert submitted.poll() is None, submitted.communicate()
            assert time.monotonic() < deadline, "waited too long"
            time.sleep(0.5)


def possible() -> bool:
    """Whether this process may make network namespaces here."""
    tools = all(shutil.which(tool) for tool in ("ip", "unshare"))
    return tools and subprocess.run(["unshare", "-n", "true"], capture_output=True, check=False).returncode == 0


def script(words: Sequence[str], environment: dict[str, str]) -> str:
    done = subprocess.run(
        [SCRIPT, *words],
        env=shell() | environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@contextmanager
def local_cluster(workers: int) -> Iterator[LocalCluster]:
    """A head and so many workers, of three CPUs each, and an empty bucket: at AWS_ENDPOINT_URL where that is on the
    bridge, else on a server of moto's."""
    state = f"/run/covseg-{secrets.token_hex(2)}"  # short: Ray's sockets lie below
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": f"{state}/token"}
    nodes = {"PYTHON": sys.executable, "CPUS": "3", "OBJECTS": "150000000", "COVSEG_LOCAL": state}
    theirs = urlparse(os.environ.get("AWS_ENDPOINT_URL", "")).hostname == BRIDGE
    port = free_port()
    keys = (
        {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
        if theirs
        else {
            "AWS_ENDPOINT_URL": f"http://{BRIDGE}:{port}",
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": f"canary-{secrets.token_hex(8)}",
            "AWS_DEFAULT_REGION": "us-east-1",
        }
    )
    made = LocalCluster("http://10.77.0.10:8265", token, nodes | keys, f"covseg-test-{secrets.token_hex(4)}")
    try:
        made.up(workers)
        with nullcontext() if theirs else served(port):
            made.storage.mkdir(made.bucket)
            yield made
    finally:
        if Path(state).exists():  # else it was refused, for another one runs
            made.do("down")


@contextmanager
def served(port: int) -> Iterator[None]:
    """moto's S3 on the bridge."""
    server = ThreadedMotoServer(BRIDGE, port, verbose=False)
    server.start()
    try:
        yield
    finally:
        server.stop()

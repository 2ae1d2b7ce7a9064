"""A Ray cluster of one node, as ``ray start`` makes it: on loopback alone, with a token."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2
from runs import kill_family
from servers import free_port

CPUS = 4


def shell() -> dict[str, str]:
    """This process's variables without Ray's: a session in it has set some for itself, with which no cluster starts."""
    return {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}


@dataclass(frozen=True)
class Cluster:
    """``environment`` is what a shell needs to speak to it at ``url``, the token among it."""

    url: str
    environment: dict[str, str]

    def start(self, words: Sequence[str], **environment: str) -> subprocess.Popen[str]:
        """``covseg-ray`` with its words and the cluster's address, from a shell without storage's credentials."""
        ours = {name: value for name, value in shell().items() if not name.startswith("AWS_")}
        return subprocess.Popen(
            [sys.executable, "-m", "covseg_ray", *words, "--address", self.url],
            env=ours | self.environment | environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def command(self, words: Sequence[str], **environment: str) -> subprocess.CompletedProcess[str]:
        """The same, to its end."""
        with self.start(words, **environment) as process:
            try:
                output, errors = process.communicate(timeout=400)
            finally:
                process.kill()
        return subprocess.CompletedProcess(words, process.returncode, output, errors)

    def get(self, path: str) -> httpx2.Response:
        headers = {"authorization": f"Bearer {self.token}"}
        return httpx2.get(self.url + path, headers=headers, timeout=30, trust_env=False)

    @property
    def token(self) -> str:
        file = self.environment.get("RAY_AUTH_TOKEN_PATH")
        return Path(file).read_text() if file else self.environment["RAY_AUTH_TOKEN"]


@contextmanager
def cluster() -> Iterator[Cluster]:
    folder = tempfile.mkdtemp(prefix="covseg-")  # Ray's sockets need a short path
    port, dashboard, agent = free_port(), free_port(), free_port()
    environment = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    words = f"start --head --block --node-ip-address 127.0.0.1 --port {port} --temp-dir {folder} --num-cpus {CPUS}"
    board = f"--dashboard-host 127.0.0.1 --dashboard-port {dashboard} --dashboard-agent-listen-port {agent}"
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # where a job finds its python
    started = subprocess.Popen(
        [sys.executable, "-m", "ray.scripts.scripts", *words.split(), *board.split(), "--disable-usage-stats"],
        env=shell() | environment | {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "PATH": path},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    found = Cluster(f"http://127.0.0.1:{dashboard}", environment)
    try:
        await_jobs_api(found)
        yield found
    finally:
        kill_family(started)
        shutil.rmtree(folder, ignore_errors=True)


def await_jobs_api(found: Cluster) -> None:
    deadline = time.monotonic() + 120
    while True:
        try:
            if found.get("/api/jobs/").status_code == 200:
                return
        except httpx2.HTTPError:
            time.sleep(0.3)
        assert time.monotonic() < deadline, "the cluster did not come up"

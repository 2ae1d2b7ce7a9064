"""The wrapper of spot machines: told by the cloud's own signs, it has Ray drain the node before it goes."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from places import ROOT
from runs import kill_family

SCRIPT = ROOT / "cluster/ray-up/spot-worker.sh"
DRAIN_SECONDS = 8
# A driver whose task holds the node, so that draining lasts: "up" once it runs, then each draining node's deadline.
DRIVER = """
import sys, time, ray
ray.init(address=sys.argv[1], _node_ip_address="127.0.0.1", log_to_driver=False)
held = ray.remote(num_cpus=1)(lambda: time.sleep(60)).remote()
print("up", flush=True)
while not (draining := ray._private.state.state.get_draining_nodes()):
    time.sleep(0.2)
print(*draining.values(), flush=True)
"""


class Metadata(ThreadingHTTPServer):
    """A machine's metadata as Amazon and Google document it; ``called_back`` once it is to go."""

    called_back = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answers)


class Answers(BaseHTTPRequestHandler):
    server: Metadata

    def do_PUT(self) -> None:
        granted = self.path == "/latest/api/token" and self.headers["X-aws-ec2-metadata-token-ttl-seconds"]
        self._answer(200 if granted else 403, b"session")

    def do_GET(self) -> None:
        back = self.server.called_back
        if self.path == "/latest/meta-data/spot/instance-action":
            known = self.headers["X-aws-ec2-metadata-token"] == "session"
            self._answer((200 if back else 404) if known else 401, b'{"action": "terminate"}')
        elif self.path == "/computeMetadata/v1/instance/preempted":
            known = self.headers["Metadata-Flavor"] == "Google"
            self._answer(200 if known else 403, b"TRUE" if back else b"FALSE")
        else:
            self._answer(404, b"")

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *words: object) -> None:
        pass


@contextmanager
def metadata() -> Iterator[Metadata]:
    with Metadata() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def environment(server: Metadata, **more: str) -> dict[str, str]:
    return os.environ | {"COVSEG_METADATA": f"http://127.0.0.1:{server.server_port}"} | more


@pytest.mark.full
@pytest.mark.parametrize("cloud", ["aws", "gcp"])
def test_ray_is_left_alone_until_the_cloud_calls_back(cloud: str, tmp_path: Path) -> None:
    """With a ``ray`` that only notes its words and its end."""
    ray = tmp_path / "ray"
    ray.write_text('#!/bin/bash\necho "$@"\ntrap "echo ended; exit 0" TERM\nwhile :; do sleep 0.1; done\n')
    ray.chmod(0o755)
    with metadata() as server:
        path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
        words = [SCRIPT, cloud, "--address=10.0.0.1:6379"]
        with subprocess.Popen(words, env=environment(server, PATH=path), stdout=subprocess.PIPE, text=True) as process:
            time.sleep(6)  # more than one look
            assert process.poll() is None
            server.called_back = True
            output, _ = process.communicate(timeout=20)
    lines = output.splitlines()
    assert lines[0] == "start --block --address=10.0.0.1:6379"
    assert lines[1].endswith("called back: draining this node")
    assert lines[2] == "ended"
    assert process.returncode == 0


def test_another_cloud_is_refused() -> None:
    done = subprocess.run([SCRIPT, "azure"], capture_output=True, text=True, env=os.environ | {"PATH": "/usr/bin:/bin"})
    assert done.returncode == 2
    assert done.stderr.endswith("spot-worker.sh: azure: no such cloud; give aws or gcp\n")


@pytest.mark.full
@pytest.mark.timeout(180)
def test_ray_drains_a_node_that_is_called_back() -> None:
    """The node is marked as draining, with a deadline: what Ray Train looks at. A head here, for it needs no other."""
    folder, port = tempfile.mkdtemp(prefix="covseg-"), free_port()
    ours = {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": str(DRAIN_SECONDS),
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # loopback alone
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    words = f"--head --node-ip-address 127.0.0.1 --port {port} --temp-dir {folder} --num-cpus 1 --disable-usage-stats"
    with metadata() as server:
        begun = environment(server, **ours)
        node = subprocess.Popen(
            [SCRIPT, "aws", *words.split(), "--include-dashboard", "false"],
            env=begun,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        driver = None
        try:
            driver = await_driver(port, begun)
            assert driver.stdout
            server.called_back, asked = True, time.time()
            deadline = float(driver.stdout.readline()) / 1000
            assert 0 < deadline - asked < DRAIN_SECONDS + 8  # a look takes up to 5 s
            node.wait(60)  # the driver ended, so nothing holds the node any more
        finally:
            for process in (driver, node):
                if process:
                    kill_family(process)
            shutil.rmtree(folder, ignore_errors=True)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def await_driver(port: int, begun: dict[str, str]) -> subprocess.Popen[str]:
    """A driver that is connected and holds the node's only CPU."""
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        driver = subprocess.Popen(
            [sys.executable, "-c", DRIVER, f"127.0.0.1:{port}"],
            env=begun,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )
        assert driver.stdout
        if driver.stdout.readline() == "up\n":
            return driver
        kill_family(driver)
    raise AssertionError("the node did not come up")

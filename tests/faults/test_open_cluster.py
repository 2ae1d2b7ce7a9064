"""A cluster that anybody may command is refused; one that wants a token, or is on loopback alone, is not."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from clusters import shell
from local_cluster import possible

from covseg_ray.engine.access import refuse_open
from covseg_ray.errors import UsageError

# Clusters take the same ports: one at a time.
pytestmark = pytest.mark.xdist_group("clusters")


@pytest.fixture(params=["token", "disabled", None])
def dashboard(request: pytest.FixtureRequest) -> Iterator[tuple[str, str | None]]:
    """A server that answers as a dashboard does in that mode, or as something else, and the mode."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            known = request.param and self.path == "/api/authentication_mode"
            body = json.dumps({"authentication_mode": request.param}).encode() if known else b"[]"
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *values: object) -> None:
            return

    with HTTPServer(("127.0.0.1", 0), Answer) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", request.param
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("hosts", [["127.0.0.1"], ["localhost", "::1"], ["127.0.0.1", "10.0.0.7"], ["head.example"]])
def test_only_a_token_lets_a_cluster_beyond_loopback_pass(dashboard: tuple[str, str | None], hosts: list[str]) -> None:
    url, mode = dashboard
    beyond = {"10.0.0.7", "head.example"} & set(hosts)
    if mode == "token" or not beyond:
        refuse_open(hosts, url)
        return
    with pytest.raises(UsageError, match=f"at {beyond.pop()} wants no token.*--allow-open-cluster"):
        refuse_open(hosts, url)


def test_no_answer_is_no_token() -> None:
    with pytest.raises(UsageError, match="wants no token"):
        refuse_open(["10.0.0.7"], "http://127.0.0.1:9")


SCRIPT = """
set -e
ip link set lo up
ip link add eth0 type veth peer name eth1
ip addr add 10.98.0.1/24 dev eth0
ip link set eth0 up
ip link set eth1 up
ip route add default dev eth0
export RAY_USAGE_STATS_ENABLED=0
"$0" -m ray.scripts.scripts start --head --node-ip-address 10.98.0.1 --num-cpus 1 --temp-dir "$1" > "$1/log" 2>&1
"$0" -m covseg_ray evaluate "$1/bundle" "$1/dataset" --address 10.98.0.1:6379 || echo "exit $?"
"$0" -m covseg_ray evaluate "$1/bundle" "$1/dataset" --address 10.98.0.1:6379 --allow-open-cluster || echo "exit $?"
"""


@pytest.mark.timeout(300)
@pytest.mark.skipif(not possible(), reason="network namespaces need Linux, root and iproute2")
def test_a_command_refuses_a_real_open_cluster(tmp_path_factory: pytest.TempPathFactory) -> None:
    """In a network of its own, where nobody else can reach it, and with an end to all its processes."""
    from near_ties import undecided_on_phantoms

    from covseg_ray.engine.bundle_io import save_bundle
    from covseg_ray.storage.datasets.pack import synthesise

    folder = tmp_path_factory.mktemp("o")
    save_bundle(str(folder / "bundle"), undecided_on_phantoms(64))
    synthesise(str(folder / "dataset"), 10, seed=1, size=64)
    alone = ["unshare", "--net", "--pid", "--fork", "--mount-proc", "--kill-child"]
    done = subprocess.run(
        [*alone, "bash", "-c", SCRIPT, sys.executable, str(folder)],
        env=shell() | {"RAY_AUTH_MODE": "disabled"},
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("exit 2\n"), done
    assert done.stderr.count("the cluster at 10.98.0.1 wants no token") == 1, done.stderr
    assert "iou_pooled" in done.stdout

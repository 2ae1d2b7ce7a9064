from __future__ import annotations

import http.server
import importlib.metadata
import json
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from places import ROOT
from typer.testing import CliRunner

from covseg_ray import __version__
from covseg_ray.cli.cluster.doctor import grouped
from covseg_ray.cli.main import app
from covseg_ray.engine.cluster import doctor, doctor_cluster, doctor_nodes
from covseg_ray.engine.cluster.doctor import Finding

RAY = importlib.metadata.version("ray")
BEYOND = "http://head.invalid:8265"


@contextmanager
def dashboard(status: int, body: bytes, path: str = "/api/version") -> Iterator[str]:
    class Reply(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append((self.path, self.headers.get("Authorization")))
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    asked: list[tuple[str, str | None]] = []
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Reply)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
    assert [where.removeprefix(BEYOND) for where, _ in asked] == [path]


def test_this_machine_passes_and_nothing_is_left_behind(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["doctor", "--storage", str(tmp_path), "--json"], catch_exceptions=False)
    findings = {finding["name"]: finding for finding in json.loads(done.stdout)["findings"]}
    assert done.exit_code == 0
    assert findings["torch"]["detail"].startswith(importlib.metadata.version("torch").split("+")[0])
    assert findings["segmentation-models-pytorch"]["detail"] == importlib.metadata.version(
        "segmentation-models-pytorch"
    )
    assert findings["Ray"] == {"name": "Ray", "status": "ok", "detail": RAY, "advice": "", "node": ""}
    assert findings["covseg-ray"]["detail"] == __version__
    assert findings["torchvision"]["status"] == findings["storage"]["status"] == "ok"
    assert list(tmp_path.iterdir()) == []


def test_storage_that_cannot_be_written_fails_the_command(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_bytes(b"")
    done = CliRunner().invoke(app, ["doctor", "--storage", str(blocked / "below")], catch_exceptions=False)
    assert done.exit_code == 1
    line = next(line for line in done.stdout.splitlines() if "storage" in line)
    assert line.startswith("fail")


def test_an_endpoint_that_is_down_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "k")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s")
    finding = doctor.storage_works("s3://nowhere/runs")
    assert finding.status == "fail"
    assert "s3://nowhere/runs" in finding.detail
    assert "\n" not in finding.detail


def test_the_ray_series_is_the_one_that_is_pinned() -> None:
    major, minor = doctor.RAY_SERIES.split(".")
    assert f">={major}.{minor},<{major}.{int(minor) + 1}" in (ROOT / "pyproject.toml").read_text(encoding="utf-8")


def test_another_ray_fails_and_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "RAY_SERIES", "2.6")
    finding = doctor.ray_version()
    assert finding.status == "fail"
    assert "~=2.6.0" in finding.advice


def test_shared_memory_is_weighed_against_two_gibibytes_or_a_share_of_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "SHARED_MEMORY", tmp_path / "absent")
    assert doctor.shared_memory().status == "warn"
    monkeypatch.setattr(doctor, "SHARED_MEMORY", tmp_path)
    monkeypatch.setattr(doctor, "GIB", 1)
    assert doctor.shared_memory().status == "ok"
    monkeypatch.setattr(doctor, "SHARED_MEMORY", Path("/proc"))
    assert doctor.shared_memory().status == "warn"


def test_a_cluster_of_the_same_ray_is_accepted() -> None:
    with dashboard(200, json.dumps({"ray_version": RAY}).encode()) as address:
        assert doctor_cluster.cluster(address + "/").status == "ok"


@pytest.mark.parametrize(
    ("status", "body", "message"),
    [
        (200, b'{"ray_version": "1.0.0"}', "here is"),
        (401, b"", "token"),
        (500, b"", "answers 500"),
        (200, b"<html>", "Expecting value"),
        (200, b"{}", "ray_version"),
    ],
)
def test_any_other_answer_fails(status: int, body: bytes, message: str) -> None:
    with dashboard(status, body) as address:
        finding = doctor_cluster.cluster(address)
    assert finding.status == "fail"
    assert finding.advice
    assert message in finding.detail


@pytest.mark.parametrize("address", ["ray://host:10001", "http://127.0.0.1:9"])
def test_an_address_that_cannot_be_asked_fails(address: str) -> None:
    finding = doctor_cluster.cluster(address)
    assert finding.status == "fail"
    assert "8265" in finding.advice


@pytest.mark.parametrize(
    ("code", "status", "message"),
    [
        (401, "ok", "a request without it is refused (401)"),
        (403, "ok", "a request without it is refused (403)"),
        (500, "fail", "{url} answers 500 without a token"),
    ],
)
def test_a_dashboard_that_wants_its_token_refuses_without(code: int, status: str, message: str) -> None:
    with dashboard(code, b"", "/api/jobs/") as address:
        found = doctor_cluster.token(address)
    assert (found.status, found.detail) == (status, message.format(url=address))


def test_a_dashboard_without_a_token_warns_on_loopback_and_fails_beyond(monkeypatch: pytest.MonkeyPatch) -> None:
    advice = "start every node with RAY_AUTH_MODE=token and one RAY_AUTH_TOKEN"
    with dashboard(200, b"[]", "/api/jobs/") as address:
        found = doctor_cluster.token(address)
    assert found == Finding("token", "warn", f"{address} takes jobs without a token", advice)
    with dashboard(200, b"[]", "/api/jobs/") as proxy:
        monkeypatch.setenv("http_proxy", proxy)
        monkeypatch.setattr("urllib.request._opener", None)  # the one that knows of no proxy
        found = doctor_cluster.token(BEYOND)
    assert found == Finding("token", "fail", f"{BEYOND} takes jobs without a token", advice)


@pytest.mark.parametrize(
    ("addresses", "wants_token", "status", "message"),
    [
        (["127.0.0.1", "::1"], False, "ok", "listens on 127.0.0.1, ::1 alone"),
        (["0.0.0.0"], True, "ok", "listens on 0.0.0.0, and wants the token"),
        (["0.0.0.0"], False, "fail", "listens on 0.0.0.0 and wants no token: it runs anybody's commands"),
        (["127.0.0.1", "10.0.0.7"], False, "fail", "listens on 127.0.0.1, 10.0.0.7 and wants no token: it runs"),
        (["::"], False, "fail", "listens on :: and wants no token"),
        ([], True, "warn", "where it listens cannot be seen"),
    ],
)
def test_an_open_dashboard_needs_a_token(addresses: list[str], wants_token: bool, status: str, message: str) -> None:
    found = doctor_nodes.dashboard(addresses, wants_token)
    assert (found.status, found.detail[: len(message)]) == (status, message)
    assert bool(found.advice) == (status != "ok")


def test_what_listens_is_found_by_its_port() -> None:
    with socket.socket() as waiting, socket.socket() as silent:
        for each in (waiting, silent):
            each.bind(("127.0.0.1", 0))
        waiting.listen()
        assert doctor_nodes.listening(waiting.getsockname()[1]) == ["127.0.0.1"]
        assert doctor_nodes.listening(silent.getsockname()[1]) == []


def test_another_python_or_ray_than_the_heads_fails() -> None:
    ours = [Finding("Python", "ok", "3.11.7"), Finding("Ray", "ok", "2.60.0")]
    same = [Finding("Python", "ok", "3.11.7", node="a"), Finding("torch", "ok", "2.6", node="b")]
    old = [Finding("Python", "ok", "3.11.8", node="b"), Finding("Ray", "fail", "2.59", "upgrade", node="b")]
    *unchanged, python, ray = doctor_nodes.same_versions([*same, *old], ours)
    assert (unchanged, ray) == (same, old[1])
    assert (python.status, python.detail, python.node) == ("fail", "3.11.8, the head has 3.11.7", "b")
    assert "install the same" in python.advice


def test_gpus_that_ray_counts_and_torch_does_not_see_fail_and_others_lie_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = torch.cuda.device_count()
    assert doctor_nodes.counted_gpus(seen).status == "ok"
    more = doctor_nodes.counted_gpus(seen + 1)
    assert (more.status, more.detail) == ("fail", f"Ray counts {seen + 1}, torch sees {seen}")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    idle = doctor_nodes.counted_gpus(1)
    assert (idle.status, idle.advice) == ("warn", "start the node with --num-gpus 2, or the rest lie idle")


def test_64_nodes_are_a_line_for_each_check_and_names_only_where_they_differ() -> None:
    nodes = [f"10.0.0.{index}" for index in range(64)]
    findings = [
        Finding("cluster", "ok", "there"),
        *(Finding("torch", "ok", "2.13", node=node) for node in nodes),
        *(Finding("CUDA", "ok", "none" if node == nodes[5] else "1 x H100", node=node) for node in nodes),
        *(Finding("storage", "fail", "refused", "look", node=node) for node in nodes),
        *(Finding("Python", "fail" if node in nodes[:10] else "ok", "3", node=node) for node in nodes),
        Finding("dashboard", "ok", "closed", node=nodes[0]),
    ]
    assert [(each.name, each.status, where) for each, where in grouped(findings)] == [
        ("cluster", "ok", ""),
        ("torch", "ok", ""),
        ("CUDA", "ok", "on 63 nodes"),
        ("CUDA", "ok", "on 10.0.0.5"),
        ("storage", "fail", "on all 64 nodes"),
        ("Python", "ok", "on 54 nodes"),
        ("Python", "fail", f"on {', '.join(nodes[:8])} and 2 more"),
        ("dashboard", "ok", ""),
    ]


@pytest.mark.parametrize(
    ("package", "check"),
    [
        ("torch", doctor.torch_build),
        ("torch", doctor.cuda),
        ("torch", lambda: doctor_nodes.counted_gpus(1)),
        ("covseg_ray.engine.training.run", doctor.package),
        ("torchvision", doctor.torchvision),
        ("segmentation_models_pytorch", doctor.segmentation_models),
        ("segmentation_models_pytorch", doctor.encoder_weights),
    ],
)
def test_a_package_that_cannot_be_imported_fails_with_advice(
    package: str, check: Callable[[], doctor.Finding], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    finding = check()
    assert finding.status == "fail"
    assert finding.advice

from __future__ import annotations

import http.server
import importlib.metadata
import json
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from typer.testing import CliRunner

from covseg_ray.cli.main import app
from covseg_ray.engine import doctor

ROOT = Path(__file__).parents[2]
RAY = importlib.metadata.version("ray")


@contextmanager
def dashboard(status: int, body: bytes) -> Iterator[str]:
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
    assert [path for path, _ in asked] == ["/api/version"]


def test_this_machine_passes_and_nothing_is_left_behind(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["doctor", "--storage", str(tmp_path), "--json"], catch_exceptions=False)
    findings = {finding["name"]: finding for finding in json.loads(done.stdout)["findings"]}
    assert done.exit_code == 0
    assert findings["torch"]["detail"].startswith(importlib.metadata.version("torch").split("+")[0])
    assert findings["segmentation-models-pytorch"]["detail"] == importlib.metadata.version(
        "segmentation-models-pytorch"
    )
    assert findings["Ray"] == {"name": "Ray", "status": "ok", "detail": RAY, "advice": ""}
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
        assert doctor.cluster(address + "/").status == "ok"


@pytest.mark.parametrize(
    ("status", "body", "told"),
    [
        (200, b'{"ray_version": "1.0.0"}', "here is"),
        (401, b"", "token"),
        (500, b"", "answers 500"),
        (200, b"<html>", "Expecting value"),
        (200, b"{}", "ray_version"),
    ],
)
def test_any_other_answer_fails(status: int, body: bytes, told: str) -> None:
    with dashboard(status, body) as address:
        finding = doctor.cluster(address)
    assert finding.status == "fail"
    assert finding.advice
    assert told in finding.detail


@pytest.mark.parametrize("address", ["ray://host:10001", "http://127.0.0.1:9"])
def test_an_address_that_cannot_be_asked_fails(address: str) -> None:
    finding = doctor.cluster(address)
    assert finding.status == "fail"
    assert "8265" in finding.advice


@pytest.mark.parametrize(
    ("package", "check"),
    [
        ("torch", doctor.torch_build),
        ("torch", doctor.cuda),
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

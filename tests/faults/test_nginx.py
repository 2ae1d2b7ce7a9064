"""The shipped nginx before a running endpoint: TLS, slow connections, requests that it refuses itself."""

from __future__ import annotations

import getpass
import shutil
import signal
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx2
import numpy as np
import pytest
from certificates import write_certificate
from places import ROOT
from servers import free_port, serving

from covseg_ray.engine.bundle_io import save_bundle
from covseg_ray.radiograph.masks import encode_png
from covseg_ray.radiograph.phantom import make_phantom
from covseg_ray.segmentation.network.bundle import Bundle

pytestmark = [
    pytest.mark.timeout(600),
    pytest.mark.skipif(not shutil.which("nginx"), reason="nginx is not installed"),
]
SHIPPED = ROOT / "cluster/nginx.conf"
KEY = "a-key-for-this-test-alone"
HEADERS = {"authorization": f"Bearer {KEY}"}
SLOW = 400
PNG = encode_png(make_phantom(1, 0, 150).image)


def configured(folder: Path, upstream: str) -> tuple[Path, int]:
    """The shipped file with what it says is to be set, and with this test's folders; and its port."""
    port, text = free_port(), SHIPPED.read_text()
    for shipped, here in (
        ("user www-data;", f"user {getpass.getuser()};"),
        ("/etc/covseg-ray/tls", str(folder)),
        ("/run/covseg-ray-nginx.pid", f"{folder}/nginx.pid"),
        ("/var/log/nginx", str(folder)),
        ("listen 8443 ssl;", f"listen 127.0.0.1:{port} ssl; client_body_temp_path {folder}/bodies;"),
        ("covseg.example.org", "127.0.0.1"),
        ("127.0.0.1:8000", upstream),
    ):
        assert text.count(shipped) >= 1, shipped
        text = text.replace(shipped, here)
    file = folder / "nginx.conf"
    file.write_text(text)
    return file, port


@pytest.fixture(scope="module")
def proxied(tmp_path_factory: pytest.TempPathFactory, bundle: Bundle) -> Iterator[tuple[int, Path]]:
    """nginx before an endpoint with an API key: its port and its folder."""
    folder = tmp_path_factory.mktemp("proxied")
    save_bundle(str(folder / "model"), bundle)
    (folder / "keys").write_text(f"{KEY}\n")
    write_certificate(folder)
    with serving(["--model", str(folder / "model"), "--keys-file", str(folder / "keys")], folder) as (_, url):
        file, port = configured(folder, url.removeprefix("http://"))
        nginx = subprocess.Popen(["nginx", "-c", str(file), "-g", "daemon off;"])
        try:
            await_port(port)
            yield port, folder
        finally:
            nginx.send_signal(signal.SIGQUIT)
            nginx.wait(30)


def await_port(port: int) -> None:
    deadline = time.monotonic() + 20
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except ConnectionRefusedError:
            assert time.monotonic() < deadline, "nginx did not come up"
            time.sleep(0.05)
        else:
            return


@pytest.fixture
def trusted(proxied: tuple[int, Path]) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(proxied[1] / "fullchain.pem"))


@pytest.fixture
def client(proxied: tuple[int, Path], trusted: ssl.SSLContext) -> Iterator[httpx2.Client]:
    with httpx2.Client(
        base_url=f"https://127.0.0.1:{proxied[0]}", headers=HEADERS, verify=trusted, timeout=60, trust_env=False
    ) as client:
        yield client


def seconds_of(client: httpx2.Client, count: int) -> list[float]:
    spent = []
    for _ in range(count):
        begin = time.monotonic()
        assert client.post("/v1/segment", content=PNG).status_code == 200
        spent.append(time.monotonic() - begin)
    return spent


def slow_connection(port: int, index: int, trusted: ssl.SSLContext) -> ssl.SSLSocket:
    """A request of which the headers and one byte of the film have been sent, from one of ten addresses."""
    raw = socket.create_connection(("127.0.0.1", port), source_address=(f"127.0.0.{index % 10 + 2}", 0))
    sent = trusted.wrap_socket(raw, server_hostname="127.0.0.1")
    head = f"POST /v1/segment HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\nContent-Length: {len(PNG)}\r\n\r\n"
    sent.sendall(head.encode() + PNG[:1])
    return sent


def test_slow_connections_keep_nobody_waiting(
    proxied: tuple[int, Path], trusted: ssl.SSLContext, client: httpx2.Client, capsys: pytest.CaptureFixture[str]
) -> None:
    alone = seconds_of(client, 100)
    with ExitStack() as open_ones:
        slow = [open_ones.enter_context(slow_connection(proxied[0], index, trusted)) for index in range(SLOW)]
        spent: list[float] = []
        for at in range(2, 12):  # a byte more on each of them, and ten requests of the one that is in no trouble
            for connection in slow:
                connection.sendall(PNG[at : at + 1])
            spent += seconds_of(client, 10)
    p99, usual = np.percentile(spent, 99), np.percentile(alone, 99)
    with capsys.disabled():
        print(f"\n{SLOW} slow connections: p99 {1000 * p99:.0f} ms, {1000 * usual:.0f} ms without them")
    assert p99 < 1


def test_a_film_goes_through_and_its_id_and_headers_come_back(client: httpx2.Client) -> None:
    answer = client.post("/v1/segment", content=PNG, headers={"x-request-id": "one-of-ours"})
    assert (answer.status_code, answer.headers["x-request-id"]) == (200, "one-of-ours")
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert client.post("/v1/segment", content=PNG, headers={"authorization": "Bearer wrong"}).status_code == 401


def test_too_large_a_body_is_refused_by_nginx_in_the_endpoints_words(
    proxied: tuple[int, Path], trusted: ssl.SSLContext
) -> None:
    raw = socket.create_connection(("127.0.0.1", proxied[0]))
    with trusted.wrap_socket(raw, server_hostname="127.0.0.1") as large:
        large.sendall(f"POST /v1/segment HTTP/1.1\r\nHost: x\r\nContent-Length: {257 * 2**20}\r\n\r\n".encode())
        answer = large.recv(4096).decode()
    assert answer.startswith("HTTP/1.1 413 ")
    assert '"reason": "body-too-large"' in answer


def test_no_name_of_a_file_reaches_a_log(proxied: tuple[int, Path], client: httpx2.Client) -> None:
    client.get("/Zwackelmann.dcm")
    client.post("/v1/segment?model=Zwackelmann", content=PNG, headers={"referer": "https://x/Zwackelmann"})
    time.sleep(0.5)
    logs = [file.read_text() for file in proxied[1].glob("*.log")]
    assert len(logs) == 2
    assert any("/v1/segment 404" in log for log in logs)
    assert not any("Zwackelmann" in log for log in logs)

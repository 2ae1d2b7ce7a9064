"""An endpoint under every kind of request, sound and broken, for long: its answers stay right, its memory flat."""

from __future__ import annotations

import io
import socket
import time
from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import httpx2
import numpy as np
import pytest
from dicom_films import encoded, film
from PIL import Image
from runs import descendants
from servers import Clients, serving

from covseg_ray.engine.bundle_io import save_bundle
from covseg_ray.radiograph.masks import encode_png
from covseg_ray.radiograph.phantom import make_phantom
from covseg_ray.segmentation.network.bundle import Bundle

pytestmark = [pytest.mark.alone, pytest.mark.timeout(4500)]
CLIENTS = 6
MOST_GROWTH = 0.05
PNG = encode_png(make_phantom(1, 0, 150).image)


@dataclass(frozen=True)
class Kind:
    """One kind of request, and the status that it must have."""

    name: str
    status: int
    method: str = "POST"
    path: str = "/v1/segment"
    sent: dict[str, Any] = field(default_factory=dict)


def pillow_file(pixels_HW: np.ndarray, kind: str) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels_HW).save(file, kind)
    return file.getvalue()


def kinds() -> list[Kind]:
    phantom_HW = make_phantom(2, 0, 1024).image
    deep_HW = np.tile(phantom_HW, (2, 2)).astype(np.uint16) * 16
    dicom, jpeg = encoded(film(deep_HW)), pillow_file(phantom_HW, "JPEG")
    as_png = {"accept": "image/png"}
    form = [("film", ("a.png", PNG)), ("film", ("b.jpg", jpeg)), ("film", ("c.png", PNG[:300]))]
    return [
        Kind("PNG", 200, sent={"content": PNG}),
        Kind("JPEG to a mask", 200, sent={"content": jpeg, "headers": as_png}),
        Kind("16-bit TIFF", 200, path="/v1/segment?mask=rle", sent={"content": pillow_file(deep_HW, "TIFF")}),
        Kind("DICOM with its picture", 200, path="/v1/segment?picture=true", sent={"content": dicom}),
        Kind("DICOM to a SEG", 200, sent={"content": dicom, "headers": {"accept": "application/dicom"}}),
        Kind(
            "overlay", 200, path="/v1/segment?view=overlay", sent={"content": PNG, "headers": {"accept": "image/png"}}
        ),
        Kind("form", 200, sent={"files": form}),
        Kind("truncated", 422, sent={"content": PNG[:300]}),
        Kind("no film", 415, sent={"content": b"surely no film"}),
        Kind("no such model", 404, path="/v1/segment?model=other", sent={"content": PNG}),
        Kind("bad query", 400, path="/v1/segment?view=side", sent={"content": PNG}),
        Kind("no such method", 405, method="DELETE"),
        Kind("models", 200, method="GET", path="/v1/model"),
        Kind("page", 200, method="GET", path="/"),
        Kind("docs", 200, method="GET", path="/docs"),
    ]


class MixedLoad(Clients):
    """Clients that send every kind in turn, and one that goes away in the middle of its film each time."""

    def __init__(self, url: str, every: list[Kind]) -> None:
        super().__init__([*(partial(self._send, first) for first in range(CLIENTS)), self._go_away])
        self.url, self.every = url, every
        self.answers: Counter[tuple[str, int]] = Counter()

    def wrong(self) -> dict[tuple[str, int], int]:
        right = {(kind.name, kind.status) for kind in self.every}
        return {answer: count for answer, count in self.answers.items() if answer not in right}

    def _send(self, first: int) -> None:
        with httpx2.Client(base_url=self.url, timeout=120, trust_env=False) as client:
            at = first * len(self.every) // CLIENTS
            while not self.over.is_set():
                kind = self.every[at % len(self.every)]
                status = client.request(kind.method, kind.path, **kind.sent).status_code
                with self.lock:
                    self.answers[kind.name, status] += 1
                at += 1

    def _go_away(self) -> None:
        there = urlparse(self.url)
        head = f"POST /v1/segment HTTP/1.1\r\nHost: x\r\nContent-Length: {len(PNG)}\r\n\r\n".encode()
        while not self.over.wait(0.5):
            with socket.create_connection((there.hostname, there.port)) as gone:
                gone.sendall(head + PNG[: len(PNG) // 2])


def memory(pid: int) -> int:
    """Bytes of a process and of all below it; what several share counts once."""
    total = 0
    for each in (pid, *descendants(pid)):
        try:
            lines = Path(f"/proc/{each}/smaps_rollup").read_text().splitlines()
        except (FileNotFoundError, ProcessLookupError):
            continue
        total += sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
    return total


def soak(bundle: Bundle, folder: Path, settle: int, seconds: float, window: float) -> None:
    """After ``settle`` answers, for ``seconds``: memory in the last ``window`` seconds over that in the first."""
    save_bundle(str(folder / "model"), bundle)
    settings = folder / "serve.yaml"
    settings.write_text(
        f"applications: [{{name: covseg-ray, args: {{models: {{default: {folder / 'model'}}}, replicas: [1, 1]}}}}]"
    )
    samples: list[tuple[float, int]] = []
    with serving(["-c", str(settings)], folder) as (command, url):
        every, deadline = kinds(), time.monotonic() + 900
        with MixedLoad(url, every) as load:
            while load.answers.total() < settle:
                assert time.monotonic() < deadline, f"waited too long: {dict(load.answers)}"
                time.sleep(0.1)
            begin = time.monotonic()
            while (now := time.monotonic() - begin) < seconds:
                samples.append((now, memory(command.process.pid)))
                time.sleep(window / 10)
    first = np.median([size for now, size in samples if now < window])
    last = np.median([size for now, size in samples if now >= seconds - window])
    (folder / "memory.csv").write_text("".join(f"{now:.0f},{size}\n" for now, size in samples))
    print(f"{load.answers.total():,} answers; {first / 2**20:,.0f}, then {last / 2**20:,.0f} MiB")
    assert load.wrong() == {}
    assert {name for name, _ in load.answers} == {kind.name for kind in every}
    assert last < (1 + MOST_GROWTH) * first


def test_mixed_load_leaves_no_memory_behind(bundle: Bundle, tmp_path: Path) -> None:
    soak(bundle, tmp_path, settle=300, seconds=20, window=8)


@pytest.mark.drill
def test_an_hour_of_mixed_load_leaves_no_memory_behind(bundle: Bundle, tmp_path: Path) -> None:
    soak(bundle, tmp_path, settle=3000, seconds=3420, window=180)

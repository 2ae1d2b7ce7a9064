"""An endpoint as a user starts it, and clients that keep it busy."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx2
from runs import Command
from typing_extensions import Self

MODEL, INGRESS = "ray::ServeReplica:covseg-ray:model-default", "ray::ServeReplica:covseg-ray:ingress"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def serving(words: Sequence[str], scratch: Path) -> Iterator[tuple[Command, str]]:
    """``covseg-ray serve`` once it is ready, and its URL."""
    with Command(["serve", *words, "--port", str(free_port())], scratch) as command:
        assert command.process.stdout is not None
        line = command.process.stdout.readline()
        assert line, command.errors.read_text()
        yield command, json.loads(line)["url"]


class Clients:
    """Tasks, each in a thread of its own, for the length of a ``with`` block: its end sets ``over`` and waits for them.
    ``elapsed`` is how many seconds that took."""

    def __init__(self, tasks: Sequence[Callable[[], None]]) -> None:
        self.over, self.lock, self.elapsed = threading.Event(), threading.Lock(), 0.0
        self._threads = [threading.Thread(target=task, daemon=True) for task in tasks]

    def __enter__(self) -> Self:
        self.elapsed = -time.monotonic()
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *raised: object) -> None:
        self.over.set()
        for thread in self._threads:
            thread.join(120)
        self.elapsed += time.monotonic()
        assert not any(thread.is_alive() for thread in self._threads), "a client still waits"


class Load(Clients):
    """So many clients that send one film after the other, each with a connection of its own; it counts the answers.

    ``client-error`` counts connections that broke.
    """

    def __init__(self, url: str, film: bytes, clients: int, path: str = "/v1/segment") -> None:
        super().__init__([self._send] * clients)
        self.url, self.film, self.path = url, film, path
        self.answers: Counter[str] = Counter()
        self.seconds: list[float] = []
        self.without_retry_after = 0
        self.refusals: Counter[str] = Counter()  # what was said with another status
        self.models: Counter[str] = Counter()

    def await_answers(self, count: int, kind: str = "200", timeout: float = 120) -> None:
        """Wait for so many more answers."""
        wanted, deadline = self.answers[kind] + count, time.monotonic() + timeout
        while self.answers[kind] < wanted:
            assert time.monotonic() < deadline, f"waited too long: {dict(self.answers)}"
            time.sleep(0.02)

    def _send(self) -> None:
        with httpx2.Client(base_url=self.url, timeout=120, trust_env=False) as client:
            while not self.over.is_set():
                begin = time.monotonic()
                try:
                    answer = client.post(self.path, content=self.film)
                except httpx2.HTTPError:
                    with self.lock:
                        self.answers["client-error"] += 1
                    continue
                self._count(answer, time.monotonic() - begin)

    def _count(self, answer: httpx2.Response, seconds: float) -> None:
        with self.lock:
            self.answers[str(answer.status_code)] += 1
            if answer.status_code == 200:
                self.seconds.append(seconds)
                self.models[answer.json()["model"]["model_id"]] += 1
            else:
                self.refusals[answer.text[:200]] += 1
                self.without_retry_after += "retry-after" not in answer.headers
        if answer.status_code == 503:
            time.sleep(0.05)

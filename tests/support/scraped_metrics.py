"""What Ray's agent exports of this program's metrics, once and over a while."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

import httpx2
import ray
from prometheus_client.parser import text_string_to_metric_families
from typing_extensions import Self

RAYS = {"Component", "NodeAddress", "SessionName", "Version", "WorkerId"}


@dataclass(frozen=True)
class Exported:
    """The last sample of each series, and the type of each metric."""

    samples: Mapping[tuple[str, frozenset[tuple[str, str]]], float]
    types: Mapping[str, str]

    def __or__(self, later: Exported) -> Exported:
        return Exported({**self.samples, **later.samples}, {**self.types, **later.types})

    def sums(self, name: str, *labels: str) -> Counter[tuple[str, ...]]:
        """The samples of that name, added by these labels."""
        added: Counter[tuple[str, ...]] = Counter()
        for (sampled, pairs), value in self.samples.items():
            if sampled == name:
                added[tuple(dict(pairs)[label] for label in labels)] += value
        return added

    def gauges(self, run: str) -> dict[str, float]:
        """What is reported of a training run."""
        return {name: value for (name, pairs), value in self.samples.items() if ("run", run) in pairs}

    def labels(self) -> dict[str, dict[str, set[str]]]:
        """The values of each label, without Ray's own, by the name of the sample."""
        found: dict[str, dict[str, set[str]]] = {}
        for name, pairs in self.samples:
            named = found.setdefault(name, {})
            for label, value in pairs:
                if label not in RAYS and not label.startswith("otel_"):
                    named.setdefault(label, set()).add(value)
        return found


class Collector:
    """Asks Ray's agent every second, as Prometheus would, for the length of a ``with`` block."""

    def __init__(self) -> None:
        self.begin = self.seen = scrape()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._collect, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *raised: object) -> None:
        self._over.set()
        self._thread.join()

    def await_growth(self, name: str, count: int) -> None:
        deadline = time.monotonic() + 120
        while self.seen.sums(name)[()] - self.begin.sums(name)[()] < count:
            assert time.monotonic() < deadline, self.seen.sums(name)
            time.sleep(0.5)

    def _collect(self) -> None:
        while not self._over.wait(1):
            with suppress(httpx2.HTTPError):  # a busy machine: the next one comes
                self.seen |= scrape()


def agent() -> str:
    """Where Ray's agent exports."""
    (node,) = (node for node in ray.nodes() if node["Alive"])
    return f"127.0.0.1:{node['MetricsExportPort']}"


def scrape() -> Exported:
    text = httpx2.get(f"http://{agent()}/metrics", trust_env=False, timeout=30).text
    ours = [family for family in text_string_to_metric_families(text) if family.name.startswith("ray_covseg_")]
    samples = {
        (sample.name, frozenset(sample.labels.items())): sample.value for family in ours for sample in family.samples
    }
    return Exported(samples, {family.name: family.type for family in ours})

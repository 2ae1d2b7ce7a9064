"""The metrics that Ray exports to Prometheus: every name, in one place.

Ray puts ``ray_`` before a name and ``_total`` behind that of a counter, and does without a Ray session: then nobody
listens. Never a film's name or anything of a patient's in a tag. ``cluster/monitoring/README.md`` explains each.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from threading import Thread

from ray.util.metrics import Counter, Gauge, Histogram

_SECONDS = [0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30]
_SHARES = [0.001, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5]
_SIZES = [1.0, 2, 4, 8, 16, 32, 64]
# Of an epoch's record; the metric that chooses the best epoch goes beside them.
_RECORDED = {
    "epoch": ("covseg_train_epoch", "Epochs done."),
    "loss": ("covseg_train_loss", "Training loss of the last epoch."),
    "val_loss": ("covseg_train_val_loss", "Validation loss of the last epoch."),
    "images_per_second": ("covseg_train_images_per_second", "Images a second in the last epoch's training steps."),
    "seconds": ("covseg_train_epoch_seconds", "Seconds of the last epoch, validation among them."),
}
REPEAT_SECONDS = 2.0


class EndpointMetrics:
    """`covseg_ray.service.middleware.Metrics` for Ray; make one a process."""

    def __init__(self) -> None:
        self._requests = Counter("covseg_requests", "Requests answered.", ("route", "status"))
        self._seconds = Histogram("covseg_request_seconds", "From request to answer.", _SECONDS, ("route",))
        self._rejects = Counter("covseg_rejects", "Films that could not be used.", ("reason",))
        self._infection = Histogram("covseg_infection_fraction", "Infected share of a film.", _SHARES)

    def request(self, route: str, status: int, seconds: float) -> None:
        self._requests.inc(tags={"route": route, "status": str(status)})
        self._seconds.observe(seconds, tags={"route": route})

    def rejected(self, reason: str) -> None:
        self._rejects.inc(tags={"reason": reason})

    def infection(self, fraction: float) -> None:
        self._infection.observe(fraction)


def batch_sizes(model: str) -> Histogram:
    """Films that one call of the network took."""
    sizes = Histogram("covseg_batch_films", "Films in one call of the network.", _SIZES, ("model",))
    return sizes.set_default_tags({"model": model})


class TrainingMetrics:
    """A run's last epoch, for as long as its first worker lives; ``select`` is the metric that chooses the best one.

    Ray forgets a gauge that was not set for 20 s, so a thread sets them again and again.
    """

    def __init__(self, run: str, select: str) -> None:
        self._gauges = {key: _of_run(run, name, text) for key, (name, text) in _RECORDED.items()}
        score = Gauge("covseg_train_score", "Validation metric that chooses the best epoch.", ("run", "metric"))
        self._gauges[select] = score.set_default_tags({"run": run, "metric": select})
        self._ended = _of_run(
            run, "covseg_train_epoch_end_timestamp_seconds", "When the last epoch ended; before, when the worker began."
        )
        self._last = {self._ended: time.time()}
        Thread(target=self._repeat, daemon=True).start()

    def epoch(self, record: Mapping[str, float]) -> None:
        self._last = {gauge: record[key] for key, gauge in self._gauges.items()} | {self._ended: time.time()}
        self._set()

    def _set(self) -> None:
        for gauge, value in self._last.items():
            gauge.set(value)

    def _repeat(self) -> None:
        while True:
            self._set()
            time.sleep(REPEAT_SECONDS)


def _of_run(run: str, name: str, text: str) -> Gauge:
    return Gauge(name, text, ("run",)).set_default_tags({"run": run})


class SegmentMetrics:
    """Counts of the films of one command."""

    def __init__(self) -> None:
        self._films = Counter("covseg_segment_films", "Films done.", ("status",))
        self._rejects = Counter("covseg_segment_rejects", "Films that could not be used.", ("reason",))

    def add(self, done: Mapping[str, int]) -> None:
        """``done`` counts films by the reason of their rejection, those with a mask by none."""
        for reason, films in done.items():
            self._films.inc(films, tags={"status": "rejected" if reason else "ok"})
            if reason:
                self._rejects.inc(films, tags={"reason": reason})

"""What the endpoint tells Ray's metrics, which Prometheus collects."""

from __future__ import annotations

from ray.util.metrics import Counter, Histogram

_SECONDS = [0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30]
_SHARES = [0.001, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5]
_SIZES = [1.0, 2, 4, 8, 16, 32, 64]


class Metrics:
    """`covseg_ray.service.envelope.Observe` for Ray; make one a process."""

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
    sizes.set_default_tags({"model": model})
    return sizes

"""Which HTTP responses are worth a retry, and how long to wait for it."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from email.utils import mktime_tz, parsedate_tz

from pydantic import ValidationError

from covseg_ray.service.schema import ErrorDocument

FIRST_SECONDS = 0.5
MAX_SECONDS = 20.0
MAX_RETRY_AFTER_SECONDS = 60.0
TRANSIENT = (408, 429, 502, 503, 504)
MAX_LENGTH = 300


@dataclass(frozen=True, slots=True)
class Response:
    """An HTTP response from the service or from a proxy in front of it. ``headers`` ignore case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def media_type(self) -> str:
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()

    @property
    def error(self) -> tuple[str, str] | None:
        """Reason and detail of the service's own error; None if another program wrote the response."""
        try:
            error = ErrorDocument.model_validate_json(self.body).error
        except ValidationError:
            return None
        return _one_line(error.reason), _one_line(error.detail)

    @property
    def is_transient(self) -> bool:
        """Whether a retry may succeed. The service's own 500 would come again."""
        return self.status in TRANSIENT or (self.status == 500 and self.error is None)

    @property
    def summary(self) -> str:
        """One line for a person: the status and the service's reason, if it gave one."""
        if self.error is None:
            return f"HTTP {self.status} ({self.media_type or 'no content type'})"
        return "HTTP {} {} ({})".format(self.status, *self.error)

    def retry_after(self, now: float) -> float | None:
        """Seconds to wait by the Retry-After header, at the time ``now`` since 1970; None without a usable one."""
        value = self.headers.get("retry-after", "").strip()
        if value.isascii() and value.isdigit():
            return float(value)
        try:
            date = parsedate_tz(value)
            return max(0.0, mktime_tz(date) - now) if date else None
        except (ValueError, OverflowError):
            return None


def retry_delay(tries: int, retry_after: float | None, jitter: Callable[[], float] = random.random) -> float:
    """Seconds to wait after so many ``tries``: ``retry_after``, at most MAX_RETRY_AFTER_SECONDS, plus a random share
    (``jitter``, 0 to 1) of a time that doubles with each try up to MAX_SECONDS, so that clients that failed together do
    not retry together.
    """
    backoff = jitter() * min(MAX_SECONDS, FIRST_SECONDS * 2.0 ** min(tries - 1, 30))
    return min(retry_after or 0.0, MAX_RETRY_AFTER_SECONDS) + backoff


def _one_line(text: str) -> str:
    """A server's ``text``, shortened and without control characters: it may be printed on a terminal."""
    printable = "".join(character if character.isprintable() else " " for character in text)
    return " ".join(printable.split())[:MAX_LENGTH]

"""Which answers of an HTTP service may get better by themselves, and how long to wait for it."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from email.utils import mktime_tz, parsedate_tz

FIRST_SECONDS = 0.5
MOST_SECONDS = 20.0
MOST_ASKED_SECONDS = 60.0
PASSING = (408, 429, 502, 503, 504)
WORDS = 300


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer as it came, whoever gave it: the service or a proxy before it. ``headers`` by any case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def media_type(self) -> str:
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()

    @property
    def error(self) -> dict[str, str] | None:
        """What the service itself says of a failure; None where another wrote the answer."""
        try:
            found = json.loads(self.body)["error"]
            return {name: _line(found[name]) for name in ("reason", "detail")}
        except (KeyError, TypeError, ValueError, RecursionError):
            return None

    @property
    def may_pass(self) -> bool:
        """Whether another try may bring a better answer. The service's own 500 would come again."""
        return self.status in PASSING or (self.status == 500 and self.error is None)

    @property
    def words(self) -> str:
        """One line for a person: the status and, where the service tells, why."""
        error = self.error
        if error is None:
            return f"HTTP {self.status} ({self.media_type or 'no content type'})"
        return f"HTTP {self.status} {error['reason']} ({error['detail']})"

    def retry_after(self, now: float) -> float | None:
        """Seconds that the answer asks to wait, at the time ``now`` since 1970; None where it asks for nothing."""
        value = self.headers.get("retry-after", "").strip()
        if value.isascii() and value.isdigit():
            return float(value)
        try:
            date = parsedate_tz(value)
            return max(0.0, mktime_tz(date) - now) if date else None
        except (ValueError, OverflowError):
            return None


def pause_seconds(tries: int, asked: float | None, draw: Callable[[], float] = random.random) -> float:
    """How long to wait after so many ``tries``: what was ``asked`` for, at most MOST_ASKED_SECONDS, and on top of that
    a share ``draw`` (0 to 1) of a time that doubles with each try up to MOST_SECONDS. Clients that failed together thus
    do not come back together.
    """
    backoff = draw() * min(MOST_SECONDS, FIRST_SECONDS * 2.0 ** min(tries - 1, 30))
    return min(asked or 0.0, MOST_ASKED_SECONDS) + backoff


def _line(text: object) -> str:
    """A server's ``text`` as one short line without control characters: it may go to a terminal."""
    printable = "".join(character if character.isprintable() else " " for character in str(text))
    return " ".join(printable.split())[:WORDS]

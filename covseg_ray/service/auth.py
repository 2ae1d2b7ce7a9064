"""API keys: several at a time, read anew when their file changes, compared in constant time."""

from __future__ import annotations

import hmac
import os
from pathlib import Path

from covseg_ray.config.serve import KEYS_ENVIRONMENT, LOOPBACK
from covseg_ray.errors import UsageError
from covseg_ray.service.refusals import RefusedRequestError

SHORTEST = 16


class Keys:
    """The keys that open the endpoint: those of the environment variable COVSEG_API_KEYS, parted by commas, and those
    of ``file``, one a line; empty lines and lines that begin with ``#`` do not count.

    A file that changes is read again with the next request: a key taken out of it no longer opens anything. While it
    cannot be read, none of its keys does.
    """

    def __init__(self, file: str | None) -> None:
        self._file = Path(file) if file else None
        self._fixed = _checked(os.environ.get(KEYS_ENVIRONMENT, "").split(","), KEYS_ENVIRONMENT)
        self._stamp: tuple[int, int, int] | None = None
        self._of_file: list[bytes] = []
        try:
            self._load()
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"{file}: API keys cannot be read from there ({error}); write one key a line") from None

    @property
    def wanted(self) -> bool:
        """Whether a key is asked for at all."""
        return self._file is not None or bool(self._fixed)

    def check(self, authorization: str | None, caller: str | None) -> None:
        """Raise 401 unless the header is ``Bearer`` with a key that opens, or no keys are set and ``caller`` is the
        address of this machine."""
        if not self.wanted:
            if caller in LOOPBACK:
                return
            detail = "this endpoint has no API keys, and without them answers nobody but its own machine"
            raise RefusedRequestError(401, "no-keys-set", detail, {"WWW-Authenticate": "Bearer"})
        self._read_again()
        scheme, _, given = (authorization or "").partition(" ")
        offered = given.strip().encode()
        # Every key is compared, so that the time tells neither how many there are nor which was near.
        matches = [hmac.compare_digest(offered, key) for key in (*self._fixed, *self._of_file)]
        if scheme.lower() != "bearer" or not any(matches):
            detail = "an API key is needed: send the header Authorization: Bearer KEY"
            raise RefusedRequestError(401, "no-valid-key", detail, {"WWW-Authenticate": "Bearer"})

    def _read_again(self) -> None:
        try:
            self._load()
        except (OSError, UnicodeDecodeError, UsageError):
            self._of_file, self._stamp = [], None

    def _load(self) -> None:
        if self._file is None:
            return
        found = self._file.stat()
        stamp = (found.st_mtime_ns, found.st_size, found.st_ino)
        if stamp != self._stamp:
            self._of_file = _checked(self._file.read_text(encoding="utf-8").splitlines(), str(self._file))
            self._stamp = stamp


def _checked(lines: list[str], where: str) -> list[bytes]:
    keys = [line.strip() for line in lines if line.strip() and not line.strip().startswith("#")]
    short = sum(len(key) < SHORTEST for key in keys)
    if short:
        raise UsageError(f"{where}: {short} of {len(keys)} API keys have fewer than {SHORTEST} characters; make longer")
    return [key.encode() for key in keys]

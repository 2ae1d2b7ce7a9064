"""API keys: any number, read again when their file changes, compared in constant time."""

from __future__ import annotations

import hmac
import os
from pathlib import Path

from covseg_ray.config.serve import KEYS_ENVIRONMENT, LOOPBACK
from covseg_ray.errors import UsageError
from covseg_ray.service.errors import RequestError

MIN_LENGTH = 16


class ApiKeys:
    """The valid API keys: those of the environment variable COVSEG_API_KEYS, separated by commas, and those of
    ``file``, one per line; empty lines and lines that begin with ``#`` do not count.

    A changed file is read again with the next request: a key removed from it is no longer valid. While the file cannot
    be read, none of its keys is.
    """

    def __init__(self, file: str | None) -> None:
        self._file = Path(file) if file else None
        self._from_environment = _checked(os.environ.get(KEYS_ENVIRONMENT, "").split(","), KEYS_ENVIRONMENT)
        self._stamp: tuple[int, int, int] | None = None
        self._from_file: list[bytes] = []
        try:
            self._load()
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"{file}: cannot read API keys ({error}); write one key per line") from None

    @property
    def required(self) -> bool:
        """Whether requests need a key."""
        return self._file is not None or bool(self._from_environment)

    def check(self, authorization: str | None, caller: str | None) -> None:
        """Raise 401 unless the header is ``Bearer`` with a valid key, or no keys are set and ``caller`` is the address
        of this machine."""
        if not self.required:
            if caller in LOOPBACK:
                return
            detail = "this endpoint has no API keys; without them it answers callers on its own machine only"
            raise RequestError(401, "no-keys-set", detail, {"WWW-Authenticate": "Bearer"})
        self._reload()
        scheme, _, token = (authorization or "").partition(" ")
        token_bytes = token.strip().encode()
        # Compare every key, so that the time does not depend on which one matches.
        matches = [hmac.compare_digest(token_bytes, key) for key in (*self._from_environment, *self._from_file)]
        if scheme.lower() != "bearer" or not any(matches):
            detail = "an API key is needed: send the header Authorization: Bearer KEY"
            raise RequestError(401, "no-valid-key", detail, {"WWW-Authenticate": "Bearer"})

    def _reload(self) -> None:
        try:
            self._load()
        except (OSError, UnicodeDecodeError, UsageError):
            self._from_file, self._stamp = [], None

    def _load(self) -> None:
        if self._file is None:
            return
        status = self._file.stat()
        stamp = (status.st_mtime_ns, status.st_size, status.st_ino)
        if stamp != self._stamp:
            self._from_file = _checked(self._file.read_text(encoding="utf-8").splitlines(), str(self._file))
            self._stamp = stamp


def _checked(lines: list[str], where: str) -> list[bytes]:
    keys = [line.strip() for line in lines if line.strip() and not line.strip().startswith("#")]
    short = sum(len(key) < MIN_LENGTH for key in keys)
    if short:
        raise UsageError(f"{where}: {short} of {len(keys)} API keys have fewer than {MIN_LENGTH} characters")
    return [key.encode() for key in keys]

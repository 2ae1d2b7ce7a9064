"""Limits of an endpoint."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Settings:
    """Limits of one request; ``max_requests`` with films may be in flight at a time.

    ``keys_file`` holds one API key per line. Without it, and without keys in the environment, only callers on the same
    machine are answered.
    """

    max_body_bytes: int = 256 * 2**20
    body_seconds: float = 30.0
    max_films: int = 64
    max_requests: int = 64
    max_pixels: int = 100_000_000
    decode_seconds: float = 20.0
    decoders: int = 2
    keys_file: str | None = None

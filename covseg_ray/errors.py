"""Every error that covseg-ray raises on purpose.

::

    CovsegError                   exit 1   HTTP 500
    ├── UsageError                exit 2   HTTP 400   an option or a value that cannot be used
    │   ├── ConfigError           exit 2   HTTP 400   a job file: unknown key, wrong type
    │   └── ModelError            exit 2   HTTP 400   an unknown encoder, a bundle that cannot be trusted or read
    ├── DatasetError              exit 1   HTTP 422   films, masks or shards that do not fit together
    │   └── RejectedFilmError     exit 1   HTTP 422   one film that cannot be segmented
    ├── TooManyRejectsError       exit 1   HTTP 500   more inputs of an archive were rejected than allowed
    ├── StorageError              exit 4   HTTP 503   a bucket or folder that is missing, refused, down or full
    └── BusyError                 exit 75  HTTP 409   another run holds the output

A message is one line: what was wrong, where, and what to do. The command line prints it without a traceback.
"""

from __future__ import annotations

from typing import ClassVar

EXIT_REJECTS = 3
EXIT_SIGINT = 130
EXIT_SIGTERM = 143


class CovsegError(Exception):
    """Root of the tree, and the class of an error that fits none of the others."""

    exit_code: ClassVar[int] = 1
    http_status: ClassVar[int] = 500


class UsageError(CovsegError):
    """An option or a value that cannot be used."""

    exit_code = 2
    http_status = 400


class ConfigError(UsageError):
    """A job file or a ``--set`` that cannot be used."""


class ModelError(UsageError):
    """An architecture, encoder, weights file or bundle that cannot be used."""


class DatasetError(CovsegError):
    """Films, masks or shards that do not fit together."""

    http_status = 422


class RejectedFilmError(DatasetError):
    """One film that cannot be segmented. ``reason`` is a code, as the result table has it; ``detail`` is one line."""

    def __init__(self, film: str, reason: str, detail: str) -> None:
        super().__init__(film, reason, detail)
        self.reason = reason
        self.detail = detail

    def __str__(self) -> str:
        return ": ".join(self.args)


class TooManyRejectsError(CovsegError):
    """More inputs of an archive were rejected than ``--max-rejects`` allows."""


class StorageError(CovsegError):
    """A bucket or folder that is missing, refused, down or full."""

    exit_code = 4
    http_status = 503


class BusyError(CovsegError):
    """Another run holds the output."""

    exit_code = 75
    http_status = 409


def first_line(error: BaseException) -> str:
    """The first line of an error's text or, where that is empty, of its cause's; else the name of its class."""
    for candidate in (error, error.__cause__):
        text = str(candidate or "").strip()
        if text and text != "None":
            return text.splitlines()[0]
    return type(error).__name__

"""Options that several commands share, with one wording."""

from __future__ import annotations

from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on standard output.")]
Address = Annotated[
    str | None, typer.Option("--address", help="A running Ray cluster; started here, on loopback, when not given.")
]
Exclude = Annotated[
    str | None,
    typer.Option("--exclude", metavar="FILE", help="List of image ids to leave out, as `data audit --side` writes."),
]
AllowOpen = Annotated[
    bool, typer.Option("--allow-open-cluster", help="Use a cluster beyond loopback that wants no token.")
]


def say(line: str) -> None:
    """Progress and hints go to standard error: standard output is for the result."""
    typer.echo(line, err=True)


def ask(uri: str) -> None:
    """Raise StorageError where ``uri`` is out of reach: told before torch and Ray are loaded, which takes seconds."""
    from covseg_ray.storage.filesystem import exists

    exists(uri)

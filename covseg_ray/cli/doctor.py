"""``covseg-ray doctor``: show what :mod:`covseg_ray.engine.doctor` found on this machine."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from covseg_ray.cli.options import Json

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.table import Table

    from covseg_ray.engine.doctor import Finding

STYLES = {"ok": "green", "warn": "yellow", "fail": "bold red"}


def doctor(
    address: Annotated[
        str | None, typer.Option(metavar="URL", help="Also ask this Ray cluster's dashboard, as http://host:8265.")
    ] = None,
    storage: Annotated[
        str, typer.Option(metavar="URI", help="A folder or s3://bucket/prefix to write to, read from and clean up.")
    ] = ".",
    as_json: Json = False,
) -> None:
    """Check this machine, and say what to do where it falls short."""
    from covseg_ray.engine.doctor import examine

    findings = examine(storage=storage, address=address)
    if as_json:
        typer.echo(json.dumps({"findings": [asdict(finding) for finding in findings]}, indent=2))
    else:
        from rich.console import Console

        Console().print(_table(findings))
    if any(finding.status == "fail" for finding in findings):
        raise typer.Exit(1)


def _table(findings: Sequence[Finding]) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, show_header=False)
    for finding in findings:
        told = Text(finding.detail, overflow="fold")
        if finding.advice:
            told.append(f": {finding.advice}", style="italic")
        table.add_row(Text(finding.status, style=STYLES[finding.status]), Text(finding.name), told)
    return table

"""``covseg-ray doctor``: show the findings of :mod:`covseg_ray.engine.cluster.doctor`, of this machine or a cluster."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Annotated

import typer

from covseg_ray.cli.options import Json, say

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.table import Table

    from covseg_ray.engine.cluster.doctor import Finding

STYLES = {"ok": "green", "warn": "yellow", "fail": "bold red"}
NAMED = 8  # nodes by name in one line


def doctor(
    address: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="Check the nodes of this Ray cluster instead, by a job: its dashboard, as http://HEAD:8265. "
            "On the cluster itself: auto.",
        ),
    ] = None,
    storage: Annotated[
        str | None,
        typer.Option(
            metavar="URI",
            help="A folder or s3://bucket/prefix to write to, read from and clean up. Without --address: this folder.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Check this machine, or a Ray cluster, and say what to do where it falls short."""
    if address is None:
        from covseg_ray.engine.cluster.doctor import examine

        findings = examine(storage or ".")
    else:
        from covseg_ray.engine.cluster import doctor_cluster

        findings = doctor_cluster.examine(address, storage, say)
    if as_json:
        typer.echo(json.dumps({"findings": [asdict(finding) for finding in findings]}))
    else:
        from rich.console import Console

        Console().print(_table(findings))
    if any(finding.status == "fail" for finding in findings):
        raise typer.Exit(1)


def _table(findings: Sequence[Finding]) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, show_header=False)
    for finding, where in grouped(findings):
        told = Text(f"{where}: {finding.detail}" if where else finding.detail, overflow="fold")
        if finding.advice:
            told.append(f": {finding.advice}", style="italic")
        table.add_row(Text(finding.status, style=STYLES[finding.status]), Text(finding.name), told)
    return table


def grouped(findings: Sequence[Finding]) -> list[tuple[Finding, str]]:
    """Check by check, what several nodes share once, the most of them first, and the words for which nodes they are."""
    checks: dict[str, dict[Finding, list[str]]] = {}
    for finding in findings:
        checks.setdefault(finding.name, {}).setdefault(replace(finding, node=""), []).append(finding.node)
    return [
        (finding, _where(nodes, finding.status == "ok", sum(map(len, shared.values()))))
        for shared in checks.values()
        for finding, nodes in sorted(shared.items(), key=lambda each: -len(each[1]))
    ]


def _where(nodes: Sequence[str], is_fine: bool, asked: int) -> str:
    if nodes == [""] or (is_fine and len(nodes) == asked):
        return ""
    if len(nodes) == asked > 1:
        return f"on all {asked} nodes"
    if len(nodes) <= NAMED:
        return f"on {', '.join(nodes)}"
    return f"on {len(nodes)} nodes" if is_fine else f"on {', '.join(nodes[:NAMED])} and {len(nodes) - NAMED} more"

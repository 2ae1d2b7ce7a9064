"""``covseg-ray doctor``: the findings of :mod:`covseg_ray.engine.cluster.doctor`, of this machine or a cluster."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Annotated

import typer

from covseg_ray.cli.options import Json, say
from covseg_ray.cli.tables import show, table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from covseg_ray.engine.cluster.doctor import Finding

STYLES = {"ok": "green", "warn": "yellow", "fail": "bold red"}
NAMED = 8  # nodes by name in one line


def doctor(
    address: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="Check the nodes of this Ray cluster by a job; give its dashboard, as http://HEAD:8265, or auto on "
            "the cluster itself.",
        ),
    ] = None,
    storage: Annotated[
        str | None,
        typer.Option(
            metavar="URI",
            help="Write to, read from and clean up this folder or s3:// URI; the working directory by default.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Check this machine or a Ray cluster, and say how to fix what fails."""
    if address is None:
        from covseg_ray.engine.cluster.doctor import examine

        findings = examine(storage or ".")
    else:
        from covseg_ray.engine.cluster import doctor_cluster

        findings = doctor_cluster.examine(address, storage, say)
    if as_json:
        typer.echo(json.dumps({"findings": [asdict(finding) for finding in findings]}))
    else:
        _show(findings)
    if any(finding.status == "fail" for finding in findings):
        raise typer.Exit(1)


def _show(findings: Sequence[Finding]) -> None:
    from rich.text import Text

    rows = []
    for finding, where in grouped(findings):
        detail = Text(f"{where}: {finding.detail}" if where else finding.detail)
        if finding.advice:
            detail.append(f": {finding.advice}", style="italic")
        rows.append([Text(finding.status, style=STYLES[finding.status]), Text(finding.name), detail])
    show(table(["status", "check", "detail"], rows, show_header=False))


def grouped(findings: Sequence[Finding]) -> list[tuple[Finding, str]]:
    """Findings by check, each with the nodes that share it, in words; the finding of the most nodes comes first."""
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

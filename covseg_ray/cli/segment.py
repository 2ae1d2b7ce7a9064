"""``covseg-ray segment``: an archive of films to masks and a ledger."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from covseg_ray.cli.options import Address, AllowOpen, Json, Model, ask, named
from covseg_ray.config import DEFAULT_MODEL
from covseg_ray.errors import EXIT_REJECTS

if TYPE_CHECKING:
    from covseg_ray.engine.bulk.dry_run import Preview


def segment(
    source: Annotated[
        str,
        typer.Argument(help="Folder, glob, .tar, .tar.gz, .zip, dataset, or .csv or .parquet list; a path or s3://."),
    ],
    out: Annotated[str, typer.Argument(help="Folder or s3:// URI for the results.")],
    model: Model = DEFAULT_MODEL,
    write: Annotated[
        str, typer.Option("--write", metavar="KIND,...", help="Files beside the table: masks, overlays, dicom-seg.")
    ] = "",
    engine: Annotated[str, typer.Option("--engine", help="auto, torch, openvino or onnx.")] = "auto",
    max_rejects: Annotated[
        str | None,
        typer.Option("--max-rejects", metavar="N|0.01", help="End early past so many rejects, or such a share."),
    ] = None,
    actors: Annotated[int | None, typer.Option("--actors", min=1, help="At most so many models side by side.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be done, and how long.")] = False,
    address: Address = None,
    allow_open: AllowOpen = False,
    as_json: Json = False,
) -> None:
    """Outline every film of an archive. The same command again goes on where a stopped one was."""
    ask(out)
    from covseg_ray.cli.progress import SegmentProgress
    from covseg_ray.engine.bulk import run as engine_room

    kinds = tuple(named(write))
    request = engine_room.Request(source, out, model, kinds, engine, max_rejects, actors)
    engine_room.check(request)
    with SegmentProgress() as progress:
        if dry_run:
            from covseg_ray.engine.bulk.dry_run import preview

            plan = preview(request, progress)
        else:
            summary = engine_room.segment(request, progress, address, allow_open)
    if dry_run:
        typer.echo(json.dumps(asdict(plan)) if as_json else _plan(plan, out))
        return
    if as_json:
        typer.echo(json.dumps({key: summary[key] for key in ("ok", "rejected", "reasons", "films_per_second", "out")}))
    else:
        typer.echo(_told(summary))
    if summary["rejected"]:
        raise typer.Exit(EXIT_REJECTS)


def _told(summary: Mapping[str, Any]) -> str:
    out, speed = summary["out"], summary["films_per_second"]
    engine = f", engine {summary['engine']}" if "engine" in summary else ""  # an earlier version did not write it
    lines = [
        f"films    {summary['ok']:,} outlined, {summary['rejected']:,} rejected, {summary['inputs']:,} in all",
        *(f"         {count:,} {reason}" for reason, count in summary["reasons"].items()),
        *_unlike(summary),
        f"speed    {speed:.1f} films/s{engine}",
        f"results  {out}/results",
        f"report   {out}/report.html",
    ]
    return "\n".join(lines)


def _unlike(summary: Mapping[str, Any]) -> list[str]:
    """A line where films do not look like what the model knows; a run of an earlier version did not look for it."""
    if not summary.get("not_frontal"):
        return []
    level = summary["frontal_level"]
    return [f"         {summary['not_frontal']:,} not like a frontal chest film (frontal below {level:g})"]


def _plan(plan: Preview, out: str) -> str:
    kinds = ", ".join(f"{count:,} {_KINDS[kind]}" for kind, count in plan.kinds.items())
    refused = "".join(f"\n         {count:,} would be rejected: {reason}" for reason, count in plan.refused.items())
    return (
        f"inputs   {plan.inputs:,} ({kinds}), {plan.bytes / 2**20:,.1f} MiB as far as listing knows{refused}\n"
        f"speed    {plan.films_per_second:.1f} films/s by the model alone ({plan.engine}), with all of this machine\n"
        f"time     about {_duration(plan.seconds)} here\n"
        f"results  would go to {out}; nothing was written"
    )


_KINDS = {
    "file": "files",
    "tar": "members of tar archives",
    "tar.gz": "members of tar.gz archives",
    "zip": "members of zip archives",
    "shard": "films of a dataset",
}


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"

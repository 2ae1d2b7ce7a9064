"""``covseg-ray segment``: an archive of films to masks and a result table."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from covseg_ray.cli.options import Address, AllowOpen, Engine, Json, Model, RejectUnlike, named, require_reachable
from covseg_ray.config import DEFAULT_MODEL
from covseg_ray.errors import EXIT_REJECTS

if TYPE_CHECKING:
    from covseg_ray.engine.bulk.dry_run import Preview


def segment(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="Folder, glob, .tar, .tar.gz, .zip, dataset, or .csv or .parquet list; path or s3://.",
        ),
    ],
    out: Annotated[str, typer.Argument(metavar="OUT", help="Folder or s3:// URI for the results.")],
    model: Model = DEFAULT_MODEL,
    write: Annotated[
        str,
        typer.Option("--write", metavar="KIND,...", help="Also write files for each film: masks, overlays, dicom-seg."),
    ] = "",
    engine: Engine = "auto",
    max_rejects: Annotated[
        str | None,
        typer.Option("--max-rejects", metavar="N|0.01", help="Stop after this number, or share, of rejected inputs."),
    ] = None,
    reject_unlike: RejectUnlike = False,
    actors: Annotated[
        int | None, typer.Option("--actors", min=1, help="Predict with at most this many models in parallel.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would be done, and an estimate of the time.")
    ] = False,
    address: Address = None,
    allow_open: AllowOpen = False,
    as_json: Json = False,
) -> None:
    """Segment every film of an archive; run the same command again to resume."""
    require_reachable(out)
    from covseg_ray.cli.progress import SegmentProgress
    from covseg_ray.engine.bulk import dry_run as dry
    from covseg_ray.engine.bulk import run as bulk

    request = bulk.Request(source, out, model, tuple(named(write)), engine, max_rejects, actors, reject_unlike)
    if dry_run:
        with SegmentProgress() as progress:
            plan = dry.preview(request, progress)
        typer.echo(json.dumps(asdict(plan)) if as_json else _plan(plan, out))
        return
    with SegmentProgress() as progress:
        summary = bulk.segment(request, progress, address, allow_open)
    document = {key: summary[key] for key in ("ok", "rejected", "reasons", "films_per_second", "out")}
    typer.echo(json.dumps(document) if as_json else _summary(summary))
    if summary["rejected"]:
        raise typer.Exit(EXIT_REJECTS)


def _summary(summary: Mapping[str, Any]) -> str:
    out = summary["out"]
    counts = dict(summary["reasons"])
    if summary["not_frontal"]:
        counts[f"not like a frontal chest film (frontal below {summary['frontal_level']:g})"] = summary["not_frontal"]
    lines = [
        f"films    {summary['ok']:,} segmented, {summary['rejected']:,} rejected, {summary['inputs']:,} in all",
        *(f"         {count:,} {what}" for what, count in counts.items()),
        f"speed    {summary['films_per_second']:.1f} films/s, engine {summary['engine']}",
        f"results  {out}/results",
        f"report   {out}/report.html",
    ]
    return "\n".join(lines)


def _plan(plan: Preview, out: str) -> str:
    kinds = ", ".join(f"{count:,} {_KINDS[kind]}" for kind, count in plan.kinds.items())
    refused = "".join(f"\n         {count:,} would be rejected: {reason}" for reason, count in plan.refused.items())
    return (
        f"inputs   {plan.inputs:,} ({kinds}), {plan.bytes / 2**20:,.1f} MiB where the listing gives sizes{refused}\n"
        f"speed    {plan.films_per_second:.1f} films/s for the model alone ({plan.engine}), on all of this machine\n"
        f"time     about {_duration(plan.seconds)} here\n"
        f"results  would be written to {out}; nothing was written"
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

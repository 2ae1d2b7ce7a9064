"""``covseg-ray data``: films in a folder become a dataset, and a dataset shows what is in it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from covseg_ray.cli.options import Json
from covseg_ray.errors import EXIT_REJECTS, UsageError

if TYPE_CHECKING:
    from covseg_ray.radiograph.geometry import Resize
    from covseg_ray.storage.datasets.audit import Audit
    from covseg_ray.storage.datasets.shards import DatasetInfo, Reject

app = typer.Typer(no_args_is_help=True, help="Pack, invent, look at and check datasets of chest films.")

Dataset = Annotated[str, typer.Argument(help="Folder or s3:// URI of the dataset.")]
REJECTS_SHOWN = 20


@app.command()
def pack(
    source: Annotated[str, typer.Argument(help="Folder, s3:// URI or .csv manifest of films and masks.")],
    dataset: Annotated[str, typer.Argument(help="Folder or s3:// URI to write; must hold no dataset yet.")],
    layout: Annotated[str | None, typer.Option(help="covid-qu-ex, pairs or csv; recognised unless given.")] = None,
    size: Annotated[int, typer.Option(min=16, max=4096, help="Side of the stored square, in pixels.")] = 256,
    resize: Annotated[str, typer.Option(help="stretch or letterbox.")] = "stretch",
    exclude: Annotated[str | None, typer.Option(help="List of image ids to leave out, as `data audit` writes.")] = None,
    as_json: Json = False,
) -> None:
    """Write the films and masks at SOURCE as a dataset of Parquet shards."""
    from covseg_ray.storage.datasets.pack import pack as pack_films
    from covseg_ray.storage.datasets.pack import read_exclusions

    if resize not in ("stretch", "letterbox"):
        raise UsageError(f"unknown resize rule {resize!r}; use stretch or letterbox")
    with _progress("packing") as progress:
        info = pack_films(
            source,
            dataset,
            layout=layout,
            size=size,
            resize=cast("Resize", resize),
            exclude=read_exclusions(exclude) if exclude else frozenset(),
            progress=progress,
        )
    _print_dataset(dataset, info, as_json)
    if info.rejected:
        _print_rejects(info.rejected)
        raise typer.Exit(EXIT_REJECTS)


@app.command()
def synth(
    dataset: Dataset,
    count: Annotated[int, typer.Option(min=1, help="How many films.")],
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same films.")] = 0,
    as_json: Json = False,
) -> None:
    """Invent COUNT chest films with infection and lung masks: no patient, no download."""
    from covseg_ray.storage.datasets.pack import synthesise

    with _progress("drawing films") as progress:
        info = synthesise(dataset, count, seed=seed, progress=progress)
    _print_dataset(dataset, info, as_json)


@app.command()
def show(
    dataset: Dataset,
    out: Annotated[str | None, typer.Option(help="Write a contact sheet of films and mask contours, a PNG.")] = None,
    as_json: Json = False,
) -> None:
    """Print what a dataset holds; with --out, draw some of it."""
    from covseg_ray.storage.datasets.contact_sheet import contact_sheet
    from covseg_ray.storage.datasets.read import read_info
    from covseg_ray.storage.filesystem import write_bytes

    info = read_info(dataset)
    if out:
        write_bytes(out, contact_sheet(dataset))
    _print_dataset(dataset, info, as_json)
    if out:
        typer.echo(f"contact sheet: {out}", err=True)


@app.command()
def audit(
    dataset: Annotated[str, typer.Argument(help="Dataset, or a folder or .csv that is not packed yet.")],
    out: Annotated[str | None, typer.Option(help="Write the films to leave out, for `data pack --exclude`.")] = None,
    side: Annotated[
        str | None,
        typer.Option(
            metavar="SPLIT", help="Of pairs across splits list the film of this one, for `evaluate --exclude`."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Find copies and patients across splits, masks that contradict their label, and films that cannot be read."""
    from covseg_ray.storage.datasets.audit import audit as audit_films
    from covseg_ray.storage.filesystem import write_bytes

    with _progress("looking") as progress:
        found = audit_films(dataset, side=side, progress=progress)
    if out:
        write_bytes(out, found.exclusions().encode())
    _print_audit(dataset, found, as_json)
    if out:
        typer.echo(f"list for --exclude: {out}", err=True)


@contextmanager
def _progress(what: str) -> Iterator[Callable[[int, int], None] | None]:
    """A bar on standard error where that is a terminal, otherwise nothing."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _print_dataset(dataset: str, info: DatasetInfo, as_json: bool) -> None:
    if as_json:
        document = {"dataset": dataset, "digest": info.digest, "rows": info.rows, "splits": info.splits}
        typer.echo(json.dumps({**document, "rejected": [_reject(each) for each in info.rejected]}))
        return
    labels = sorted({label for counts in info.splits.values() for label in counts})
    rows = [
        [split, *(f"{counts.get(label, 0):,}" for label in labels), f"{sum(counts.values()):,}"]
        for split, counts in info.splits.items()
    ]
    _print_table(dataset, ["split", *labels, "films"], rows)
    typer.echo(f"{info.size} x {info.size} ({info.resize}), {len(info.shards)} shards, {info.bytes / 2**20:,.1f} MiB")
    typer.echo(f"digest {info.digest}")


def _print_audit(dataset: str, found: Audit, as_json: bool) -> None:
    if as_json:
        findings = [{"kind": each.kind, "image_id": each.image_id, "detail": each.detail} for each in found.findings]
        rejected = [_reject(each) for each in found.rejected]
        counts = {"films": found.films, "without_patient": found.without_patient}
        typer.echo(json.dumps({"dataset": dataset, **counts, "findings": findings, "rejected": rejected}))
        return
    typer.echo(f"{found.films:,} films, {len(found.findings):,} findings")
    if found.without_patient:
        typer.echo(f"{found.without_patient:,} films without patient_id: their patients may be in several splits")
    if found.findings:
        rows = [[each.kind, each.image_id, each.detail] for each in found.findings]
        _print_table("films to leave out", ["finding", "image", "detail"], rows)
    if found.rejected:
        _print_rejects(found.rejected)


def _print_rejects(rejected: Sequence[Reject]) -> None:
    rows = [[each.image, each.reason, each.detail] for each in rejected[:REJECTS_SHOWN]]
    _print_table(f"{len(rejected):,} films left out", ["image", "reason", "detail"], rows, to_stderr=True)
    if len(rejected) > REJECTS_SHOWN:
        typer.echo(f"... and {len(rejected) - REJECTS_SHOWN:,} more, all in dataset.json", err=True)


def _print_table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]], *, to_stderr: bool = False) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for column in header:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*row)
    Console(stderr=to_stderr, markup=False, highlight=False).print(table)


def _reject(reject: Reject) -> dict[str, Any]:
    return {"image": reject.image, "reason": reject.reason, "detail": reject.detail}

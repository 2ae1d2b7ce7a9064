"""``covseg-ray data``: pack films into a dataset, and show and audit one."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from covseg_ray.cli import tables
from covseg_ray.cli.options import Json
from covseg_ray.errors import EXIT_REJECTS

if TYPE_CHECKING:
    from covseg_ray.storage.datasets.audit import Audit
    from covseg_ray.storage.datasets.info import DatasetInfo, Reject

app = typer.Typer(name="data", help="Pack, generate, show and audit datasets of chest films.")

Dataset = Annotated[str, typer.Argument(metavar="DATASET", help="Folder or s3:// URI of the dataset.")]
Names = Annotated[
    list[str] | None,
    typer.Option(
        "--name",
        metavar="NAME",
        help="Name the sources, once for each in their order; by default by their folders. Image ids begin with it.",
    ),
]
REJECTS_SHOWN = 20


@app.command()
def pack(
    sources: Annotated[
        list[str],
        typer.Argument(metavar="SOURCE", help="Folders, s3:// URIs or .csv manifests of films and masks."),
    ],
    dataset: Annotated[
        str, typer.Argument(metavar="DATASET", help="Folder or s3:// URI to write; must hold no dataset yet.")
    ],
    layout: Annotated[
        Literal["covid-qu-ex", "pairs", "csv"] | None,
        typer.Option(help="Read every SOURCE in this layout; detected by default."),
    ] = None,
    names: Names = None,
    size: Annotated[int, typer.Option(min=16, max=4096, help="Store squares of this side, in pixels.")] = 256,
    resize: Annotated[
        Literal["stretch", "letterbox"], typer.Option(help="Fill the square, or keep the proportions between bars.")
    ] = "stretch",
    exclude: Annotated[
        str | None, typer.Option(metavar="FILE", help="Leave out the image ids of this list, from `data audit --out`.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Pack films and masks into a dataset of Parquet shards."""
    from covseg_ray.cli.progress import CountProgress
    from covseg_ray.storage.datasets.pack import pack as pack_films
    from covseg_ray.storage.datasets.pack import read_exclusions

    with CountProgress("packing") as progress:
        info = pack_films(
            sources,
            dataset,
            names=names or (),
            layout=layout,
            size=size,
            resize=resize,
            exclude=read_exclusions(exclude) if exclude else frozenset(),
            progress=progress.update,
        )
    _print_dataset(dataset, info, as_json)
    if info.rejected:
        _print_rejects(info.rejected)
        raise typer.Exit(EXIT_REJECTS)


@app.command()
def synth(
    dataset: Dataset,
    count: Annotated[int, typer.Option(min=1, help="Generate this many films.")],
    seed: Annotated[int, typer.Option(min=0, help="Seed of the generator.")] = 0,
    as_json: Json = False,
) -> None:
    """Generate a dataset of phantoms: synthetic chest films with infection and lung masks."""
    from covseg_ray.cli.progress import CountProgress
    from covseg_ray.storage.datasets.pack import synthesise

    with CountProgress("generating") as progress:
        info = synthesise(dataset, count, seed=seed, progress=progress.update)
    _print_dataset(dataset, info, as_json)


@app.command()
def show(
    dataset: Dataset,
    out: Annotated[
        str | None, typer.Option(metavar="PNG", help="Draw a contact sheet of films and mask contours.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Print what a dataset holds, and draw a contact sheet with --out."""
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
    datasets: Annotated[
        list[str],
        typer.Argument(metavar="DATASET", help="Datasets, or folders or .csv manifests that are not packed yet."),
    ],
    names: Names = None,
    out: Annotated[
        str | None, typer.Option(metavar="FILE", help="Write the films to leave out, for `data pack --exclude`.")
    ] = None,
    side: Annotated[
        str | None,
        typer.Option(
            metavar="SPLIT", help="Of each pair across splits, list the film of this split, for `evaluate --exclude`."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Find duplicates and patients across splits, masks that contradict their label, and unreadable films. Warn where
    how the files were made tells the label."""
    from covseg_ray.cli.progress import CountProgress
    from covseg_ray.storage.datasets.audit import audit as audit_films
    from covseg_ray.storage.filesystem import write_bytes

    with CountProgress("auditing") as progress:
        found = audit_films(datasets, names=names or (), side=side, progress=progress.update)
    if out:
        write_bytes(out, found.exclusions().encode())
    _print_audit(", ".join(datasets), found, as_json)
    if out:
        typer.echo(f"list for --exclude: {out}", err=True)


def _print_dataset(dataset: str, info: DatasetInfo, as_json: bool) -> None:
    if as_json:
        document = {"dataset": dataset, "digest": info.digest, "rows": info.rows, "splits": info.splits}
        by_source = {"sources": info.sources} if info.sources else {}
        typer.echo(json.dumps({**document, **by_source, "rejected": [asdict(each) for each in info.rejected]}))
        return
    labels = sorted({label for counts in info.splits.values() for label in counts})
    rows = [[split, *_counts(counts, labels)] for split, counts in info.splits.items()]
    tables.show(dataset, tables.table(["split", *labels, "films"], rows, right=(*labels, "films")))
    if info.sources:
        rows = [
            [source, split, *_counts(counts, labels)]
            for source, splits in info.sources.items()
            for split, counts in splits.items()
        ]
        tables.show("by source", tables.table(["source", "split", *labels, "films"], rows, right=(*labels, "films")))
    typer.echo(f"{info.size} x {info.size} ({info.resize}), {len(info.shards)} shards, {info.bytes / 2**20:,.1f} MiB")
    typer.echo(f"digest {info.digest}")


def _counts(counts: Mapping[str, int], labels: Sequence[str]) -> list[str]:
    return [*(f"{counts.get(label, 0):,}" for label in labels), f"{sum(counts.values()):,}"]


def _print_audit(dataset: str, found: Audit, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps({"dataset": dataset, **asdict(found)}))
        return
    typer.echo(f"{found.films:,} films, {len(found.findings):,} findings")
    if found.without_patient:
        typer.echo(f"{found.without_patient:,} films without patient_id: their patients may be in several splits")
    if found.findings:
        rows = [[each.kind, each.image_id, each.detail] for each in found.findings]
        tables.show("films to leave out", tables.table(["finding", "image", "detail"], rows))
    if found.shortcuts:
        rows = [[each.trace, each.label, f"{each.auc:.2f}"] for each in found.shortcuts]
        title = "warning: how the files were made tells the label"
        tables.show(title, tables.table(["trace", "label", "AUC"], rows, right=("AUC",)))
    if found.rejected:
        _print_rejects(found.rejected)


def _print_rejects(rejected: Sequence[Reject]) -> None:
    rows = [[each.image, each.reason, each.detail] for each in rejected[:REJECTS_SHOWN]]
    tables.show(f"{len(rejected):,} films left out", tables.table(["image", "reason", "detail"], rows), to_stderr=True)
    if len(rejected) > REJECTS_SHOWN:
        typer.echo(f"... and {len(rejected) - REJECTS_SHOWN:,} more, all in dataset.json", err=True)

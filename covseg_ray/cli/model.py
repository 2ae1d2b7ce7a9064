"""``covseg-ray model``: what a bundle is made of, the rule by which it calls a pixel infection, other engines."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from covseg_ray.cli.options import BundleUri, DatasetUri, Json, Labels, ask, named, say
from covseg_ray.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.table import Table

    from covseg_ray.engine.evaluation.export import Compared
    from covseg_ray.segmentation.network.bundle import Bundle

app = typer.Typer(help="Model bundles: what they hold, and when they call a pixel infection.", no_args_is_help=True)


@app.callback()
def root() -> None:
    pass


@app.command()
def decide(
    bundle: BundleUri,
    dataset: DatasetUri,
    out: Annotated[str, typer.Argument(metavar="OUT", help="Where the new bundle is written.")],
    split: Annotated[str, typer.Option("--split", help="Which split of the dataset chooses.")] = "val",
    labels: Labels = None,
    flip: Annotated[bool, typer.Option("--flip", help="Look at each film's mirror image too: twice the time.")] = False,
    half: Annotated[bool, typer.Option("--half", help="Write the weights in half precision, half as large.")] = False,
    as_json: Json = False,
) -> None:
    """Choose from which probability on, and from how many pixels on, a region is infection; measure and save that."""
    ask(dataset)
    from covseg_ray.engine.bundle_io import load_bundle, save_bundle
    from covseg_ray.engine.evaluation import threshold as engine
    from covseg_ray.engine.session import session
    from covseg_ray.storage.datasets.subset import Subset

    films = Subset(dataset, split, named(labels) or None)
    model = load_bundle(bundle)
    decided, found = engine.decide(model.half_precision() if half else model, films, flip, _tell)
    with session():
        done = engine.with_metrics(decided, films, found)
    save_bundle(out, done)
    if as_json:
        typer.echo(json.dumps({"bundle": out, "model_id": done.model_id, **asdict(found)}))
        return
    typer.echo(f"threshold        {found.threshold:.3f}")
    typer.echo(f"smallest region  {found.smallest_region} pixels")
    typer.echo(f"iou_all          {found.score:.4f}; {found.expected:.4f} on films that did not choose")
    typer.echo(f"bundle           {out}")


def _tell(done: int, films: int) -> None:
    say(f"{done:,} of {films:,} films")


@app.command()
def export(
    bundle: BundleUri,
    to: Annotated[str, typer.Option("--to", metavar="onnx|openvino", help="For ONNX Runtime, or for OpenVINO.")],
    int8: Annotated[
        bool, typer.Option("--int8", help="As a bundle that computes in 8-bit integers; with --to openvino.")
    ] = False,
    calibrate: Annotated[
        str | None,
        typer.Option(
            "--calibrate",
            metavar="DATASET",
            help="Films: --int8 learns its ranges from split train, and the export is refused where iou_pooled falls "
            "by more than 0.002 on split val.",
        ),
    ] = None,
    out: Annotated[
        str | None, typer.Option("--out", help="Where it is written: into BUNDLE, or BUNDLE-int8, when not given.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Write a model for another engine: its files, or a bundle that computes in 8-bit integers, faster on a CPU."""
    from covseg_ray.segmentation.export_request import ExportRequest

    request = ExportRequest(to, int8, calibrate)
    if calibrate:
        ask(calibrate)
    from covseg_ray.engine.bundle_io import load_bundle, resolve, save_bundle, save_graph
    from covseg_ray.engine.evaluation import export as engine

    if out is None and resolve(bundle) != bundle:
        raise UsageError(f"{bundle}: a model of the package stays as it is; give --out")
    model = load_bundle(bundle)
    where = out or (f"{bundle.rstrip('/')}-int8" if int8 else bundle)
    compared: Compared | None
    if int8 and calibrate:
        made, compared = engine.in_int8(model, calibrate, _tell_of)
        save_bundle(where, made)
    else:
        made = model
        graph, compared = engine.in_float(model, request, _tell_of)
        save_graph(where, graph)
    document = {"out": where, "model_id": made.model_id, **(asdict(compared) if compared else {})}
    if as_json:
        typer.echo(json.dumps(document))
        return
    if compared:
        typer.echo(f"iou_pooled  {compared.before:.4f} before, {compared.after:.4f} exported")
    else:
        typer.echo("not compared with the model: no films were given (--calibrate)")
    typer.echo(f"written to  {where}")


def _tell_of(what: str, done: int, films: int) -> None:
    say(f"{what}: {done:,} of {films:,} films")


@app.command()
def info(
    bundle: BundleUri,
    as_json: Json = False,
) -> None:
    """Print a model's network, training data and metrics. With --json also its layers."""
    from covseg_ray.engine.bundle_io import load_bundle
    from covseg_ray.segmentation.network.layers import describe

    model = load_bundle(bundle)
    layers = describe(model)
    if as_json:
        document = {
            "model_id": model.model_id,
            **model.spec.model_dump(mode="json"),
            "parameters": sum(layer.parameters for layer in layers),
            "layers": [asdict(layer) for layer in layers],
        }
        typer.echo(json.dumps(document, indent=2, ensure_ascii=False))
        return
    from rich.console import Console

    console = Console()
    for table in (_metrics(model), _facts(model, sum(layer.parameters for layer in layers))):
        if table.row_count:
            console.print(table)


def _facts(model: Bundle, parameters: int) -> Table:
    from covseg_ray.segmentation.network.card import in_words

    spec = model.spec
    facts = {
        "Model id": model.model_id,
        "Network": f"{spec.architecture} with {spec.encoder}",
        "Parameters": f"{parameters:,} trainable",
        "Classes": ", ".join(spec.classes),
        "Input": f"{spec.input_size} x {spec.input_size}, {spec.resize}",
        "Decision": in_words(spec),
        "Made": f"{spec.created:%Y-%m-%d %H:%M} UTC by covseg-ray {spec.package_version}",
    }
    if spec.trained_on is not None:
        seen = spec.trained_on
        films = f"{seen.images:,} films ({', '.join(seen.labels) or 'all labels'})"
        facts["Trained on"] = f"{films}, split {seen.split} of {seen.dataset}"
        facts["Dataset digest"] = seen.digest
    return _table(["Fact", "Value"], [list(row) for row in facts.items()])


def _metrics(model: Bundle) -> Table:
    rows = [
        [name, f"{found.value:.4f}", f"{found.low:.4f} to {found.high:.4f}"]
        for name, found in model.spec.metrics.items()
    ]
    return _table(["Metric", "Value", "95 % interval"], rows)


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, justify="right" if column == "95 % interval" else "left")
    for row in rows:
        table.add_row(*(Text(cell, overflow="fold") for cell in row))
    return table

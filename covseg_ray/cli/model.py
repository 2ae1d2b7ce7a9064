"""``covseg-ray model``: show a bundle, choose its decision rule, export it for other engines."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from covseg_ray.cli.options import BundleUri, DatasetUri, Json, Labels, Split, require_reachable, say, subset
from covseg_ray.cli.tables import show, table
from covseg_ray.errors import UsageError

if TYPE_CHECKING:
    from rich.table import Table

    from covseg_ray.engine.evaluation.export import Compared
    from covseg_ray.segmentation.network.bundle import Bundle

app = typer.Typer(name="model", help="Show, calibrate and export model bundles.")

Calibrate = Annotated[
    str | None,
    typer.Option(
        "--calibrate",
        metavar="DATASET",
        help="Calibrate --int8 on split train, and refuse an export whose iou_pooled on split val falls by "
        "more than 0.002.",
    ),
]
ExportOut = Annotated[
    str | None,
    typer.Option("--out", metavar="OUT", help="Write here; by default into BUNDLE, or to BUNDLE-int8 with --int8."),
]


@app.command()
def decide(
    bundle: BundleUri,
    dataset: DatasetUri,
    out: Annotated[str, typer.Argument(metavar="OUT", help="Folder or s3:// URI for the new bundle.")],
    split: Split = "val",
    labels: Labels = None,
    flip: Annotated[
        bool, typer.Option("--flip", help="Average in each film's mirror image; doubles the time.")
    ] = False,
    half: Annotated[bool, typer.Option("--half", help="Write the weights in half precision.")] = False,
    as_json: Json = False,
) -> None:
    """Choose the threshold and the smallest region that score best on a split, and save them in a new bundle."""
    films = subset(dataset, split, labels)
    from covseg_ray.cli.progress import CountProgress
    from covseg_ray.engine.bundle_io import load_bundle, save_bundle
    from covseg_ray.engine.evaluation import threshold as engine
    from covseg_ray.engine.session import session

    model = load_bundle(bundle)
    with CountProgress("predicting") as progress:
        decided, found = engine.decide(model.half_precision() if half else model, films, flip, progress.update)
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


@app.command()
def export(
    bundle: BundleUri,
    to: Annotated[Literal["onnx", "openvino"], typer.Option("--to", help="Export for this engine.")],
    int8: Annotated[
        bool, typer.Option("--int8", help="Quantise to 8-bit integers, as a bundle; requires --to openvino.")
    ] = False,
    calibrate: Calibrate = None,
    out: ExportOut = None,
    as_json: Json = False,
) -> None:
    """Export a model for ONNX Runtime or OpenVINO, or quantise it to 8-bit integers."""
    if int8 and to != "openvino":
        raise UsageError("--int8 requires --to openvino")
    if int8 and not calibrate:
        raise UsageError("--int8 requires films to calibrate on: give --calibrate DATASET")
    if calibrate:
        require_reachable(calibrate)
    from covseg_ray.engine.bundle_io import load_bundle, resolve, save_bundle, save_graph
    from covseg_ray.engine.evaluation import export as engine

    if out is None and resolve(bundle) != bundle:
        raise UsageError(f"{bundle}: a model of the package stays as it is; give --out")
    model = load_bundle(bundle)
    where = out or (f"{bundle.rstrip('/')}-int8" if int8 else bundle)
    compared: Compared | None
    if int8 and calibrate:
        made, compared = engine.in_int8(model, calibrate, _say_progress)
        save_bundle(where, made)
    else:
        made = model
        graph, compared = engine.in_float(model, to, calibrate, _say_progress)
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


def _say_progress(what: str, done: int, films: int) -> None:
    say(f"{what}: {done:,} of {films:,} films")


@app.command()
def info(
    bundle: BundleUri,
    as_json: Json = False,
) -> None:
    """Print a model's network, training data and metrics."""
    from covseg_ray.engine.bundle_io import load_bundle
    from covseg_ray.segmentation.network.build import trainable_parameters

    model = load_bundle(bundle)
    parameters = trainable_parameters(model.network())
    if as_json:
        document = {"model_id": model.model_id, **model.spec.model_dump(mode="json"), "parameters": parameters}
        typer.echo(json.dumps(document, indent=2, ensure_ascii=False))
        return
    show(*(each for each in (_metrics(model), _facts(model, parameters)) if each.row_count))


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
        "Expected IoU": f"by a curve of {len(spec.expected_iou)} points" if spec.expected_iou else "none",
        "Made": f"{spec.created:%Y-%m-%d %H:%M} UTC by covseg-ray {spec.package_version}",
    }
    if spec.trained_on is not None:
        seen = spec.trained_on
        films = f"{seen.images:,} films ({', '.join(seen.labels) or 'all labels'})"
        facts["Trained on"] = f"{films}, split {seen.split} of {seen.dataset}"
        facts["Dataset digest"] = seen.digest
        if seen.teachers:
            facts["Teachers"] = ", ".join(seen.teachers)
    return table(["Fact", "Value"], list(facts.items()))


def _metrics(model: Bundle) -> Table:
    rows = [
        [name, f"{found.value:.4f}", f"{found.low:.4f} to {found.high:.4f}"]
        for name, found in model.spec.metrics.items()
    ]
    return table(["Metric", "Value", "95 % interval"], rows, right=("95 % interval",))

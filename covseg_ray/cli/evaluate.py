"""``covseg-ray evaluate``: a bundle against the masks of a dataset."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from covseg_ray.cli.options import Address, AllowOpen, Json, ask

if TYPE_CHECKING:
    from covseg_ray.engine.evaluate import Evaluation


def evaluate(
    bundle: Annotated[str, typer.Argument(metavar="BUNDLE", help="Path or s3:// URI of a model bundle.")],
    dataset: Annotated[str, typer.Argument(metavar="DATASET", help="Path or s3:// URI of a packed dataset.")],
    split: Annotated[str, typer.Option("--split", help="Which split of the dataset.")] = "val",
    labels: Annotated[
        str | None, typer.Option("--labels", metavar="LABEL,...", help="Only films with these labels.")
    ] = None,
    workers: Annotated[int, typer.Option("--workers", min=1, help="How many models predict side by side.")] = 1,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Films predicted at a time.")] = 32,
    report: Annotated[
        str | None, typer.Option("--report", metavar="HTML", help="Write a report with pictures.")
    ] = None,
    address: Address = None,
    allow_open: AllowOpen = False,
    as_json: Json = False,
) -> None:
    """Measure a model: every metric with its bootstrap 95 % interval."""
    ask(dataset)
    from covseg_ray.engine import evaluate as engine
    from covseg_ray.engine.bundles import load_bundle
    from covseg_ray.engine.finish import evaluation_page
    from covseg_ray.engine.runtime import session
    from covseg_ray.storage.filesystem import write_bytes

    wanted = [label.strip() for label in labels.split(",")] if labels else None
    model = load_bundle(bundle)
    with session(address, workers, allow_open):
        found = engine.evaluate(model, dataset, split, wanted, workers, batch_size)
    if report:
        write_bytes(report, evaluation_page(model, dataset, split, wanted, found).encode())
    typer.echo(json.dumps(_document(found)) if as_json else _table(found))


def _document(found: Evaluation) -> dict[str, object]:
    metrics = {name: {"value": e.value, "low": e.low, "high": e.high} for name, e in found.metrics.items()}
    return {"images": len(found.image_ids), "metrics": metrics}


def _table(found: Evaluation) -> str:
    rows = [f"{name:<14} {e.value:.4f}   {e.low:.4f} to {e.high:.4f}" for name, e in found.metrics.items()]
    return "\n".join([f"{len(found.image_ids)} films", f"{'metric':<14} value    95 % interval", *rows])

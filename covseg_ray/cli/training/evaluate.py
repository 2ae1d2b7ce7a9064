"""``covseg-ray evaluate``: a bundle against the masks of a dataset."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from covseg_ray.cli.options import (
    Address,
    AllowOpen,
    BundleUri,
    DatasetUri,
    Exclude,
    Json,
    Labels,
    Report,
    Split,
    Workers,
    named,
    require_reachable,
    say,
)
from covseg_ray.cli.tables import show, table

if TYPE_CHECKING:
    from covseg_ray.engine.evaluation.run import Evaluation
    from covseg_ray.segmentation.estimate import Estimate
    from covseg_ray.segmentation.evaluation.calibration import Calibration
    from covseg_ray.segmentation.evaluation.froc import FreeResponse
    from covseg_ray.segmentation.evaluation.subgroups import Stratum

IN_STRATA = ("iou_image", "iou_all", "false_alarm")


def evaluate(
    bundle: BundleUri,
    dataset: DatasetUri,
    split: Split = "val",
    labels: Labels = None,
    exclude: Exclude = None,
    workers: Workers = 1,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Predict this many films at a time.")] = 32,
    report: Report = None,
    address: Address = None,
    allow_open: AllowOpen = False,
    as_json: Json = False,
) -> None:
    """Measure a model on films with masks: every metric with its bootstrap 95 % interval."""
    require_reachable(dataset)
    from covseg_ray.engine.bundle_io import load_bundle
    from covseg_ray.engine.evaluation import run as engine
    from covseg_ray.engine.evaluation.report import evaluation_page
    from covseg_ray.engine.session import session
    from covseg_ray.storage.datasets.pack import read_exclusions
    from covseg_ray.storage.datasets.subset import Subset
    from covseg_ray.storage.filesystem import write_bytes

    films = Subset(dataset, split, named(labels) or None, read_exclusions(exclude) if exclude else frozenset())
    request = engine.EvaluationRequest(load_bundle(bundle), films, workers, batch_size)
    with session(address, workers, allow_open):
        found = engine.evaluate(request)
    if report:
        write_bytes(report, evaluation_page(request, found).encode())
    for note in found.notes:
        say(f"note: {note}")
    if as_json:
        typer.echo(json.dumps(_document(found)))
    else:
        _show(found)


def metrics_document(metrics: Mapping[str, Estimate]) -> dict[str, Any]:
    return {name: asdict(estimate) for name, estimate in metrics.items()}


def _document(found: Evaluation) -> dict[str, Any]:
    return {
        "images": len(found.image_ids),
        "metrics": metrics_document(found.metrics),
        "strata": {
            group: {
                name: {"images": each.images, "metrics": metrics_document(each.metrics)} for name, each in of.items()
            }
            for group, of in found.strata.items()
        },
        "calibration": {name: _calibration(each) for name, each in found.calibration.items()},
        "free_response": _free_response(found.free_response),
    }


def _calibration(found: Calibration) -> dict[str, Any]:
    return {**asdict(found), "bins": [each._asdict() for each in found.bins]}


def _free_response(found: FreeResponse) -> dict[str, Any]:
    from covseg_ray.segmentation.evaluation.froc import RULE

    return {"rule": RULE, **asdict(found), "curve": [point._asdict() for point in found.curve]}


def _show(found: Evaluation) -> None:
    from covseg_ray.engine.evaluation.report import free_response_words, stratum_words
    from covseg_ray.engine.evaluation.run import ALL

    metrics = [[name, f"{e.value:.4f}", f"{e.low:.4f} to {e.high:.4f}"] for name, e in found.metrics.items()]
    strata = [
        [stratum_words(group, name), f"{each.images:,}", *_cells(each)]
        for group, of in found.strata.items()
        for name, each in of.items()
    ]
    films = f"{len(found.image_ids):,} films" + (f", {found.left_out:,} left out" if found.left_out else "")
    whole = found.calibration[ALL]
    show(
        films,
        table(["metric", "value", "95 % interval"], metrics),
        "",
        table(["of them", "films", *IN_STRATA], strata),
        "",
        f"calibration: expected error {whole.expected_error:.4f}, Brier score {whole.brier:.4f}, over all pixels",
        f"free response: {free_response_words(found.free_response)}",
    )


def _cells(stratum: Stratum) -> list[str]:
    found = [stratum.metrics.get(name) for name in IN_STRATA]
    return [f"{each.value:.3f} ({each.low:.3f} to {each.high:.3f})" if each else "-" for each in found]

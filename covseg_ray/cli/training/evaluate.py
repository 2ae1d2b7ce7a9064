"""``covseg-ray evaluate`` and ``compare``: one bundle, or two, against the masks of a dataset."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, Literal

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
    say,
    subset,
)
from covseg_ray.cli.tables import show, table
from covseg_ray.cli.training.stress import show_stress, stress_document

if TYPE_CHECKING:
    from rich.table import Table

    from covseg_ray.engine.evaluation.compare import ComparedStratum, Comparison
    from covseg_ray.engine.evaluation.protocol import ProtocolName
    from covseg_ray.engine.evaluation.run import Evaluation
    from covseg_ray.engine.evaluation.stress import Stress
    from covseg_ray.segmentation.estimate import Estimate
    from covseg_ray.segmentation.evaluation.subgroups import Stratum
    from covseg_ray.segmentation.network.bundle import Bundle
    from covseg_ray.storage.datasets.read import Subset

IN_STRATA = ("iou_image", "iou_all", "false_alarm")


def evaluate(
    bundle: BundleUri,
    dataset: DatasetUri,
    split: Split = "val",
    labels: Labels = None,
    exclude: Exclude = None,
    workers: Workers = 1,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Predict this many films at a time.")] = 32,
    stress: Annotated[
        bool, typer.Option("--stress", help="Also measure the films after changes as by compression and resizing.")
    ] = False,
    protocol: Annotated[
        Literal["medsegbench"] | None,
        typer.Option("--protocol", help="Apply the decision rule of this benchmark and print its metrics."),
    ] = None,
    report: Report = None,
    address: Address = None,
    allow_open: AllowOpen = False,
    as_json: Json = False,
) -> None:
    """Measure a model on films with masks: every metric with its bootstrap 95 % interval."""
    films = subset(dataset, split, labels, exclude)
    from covseg_ray.engine.bundle_io import load_bundle
    from covseg_ray.engine.evaluation import run as engine
    from covseg_ray.engine.evaluation.protocol import PROTOCOLS
    from covseg_ray.engine.evaluation.report import evaluation_page
    from covseg_ray.engine.session import session
    from covseg_ray.storage.filesystem import write_bytes

    model = load_bundle(bundle)
    if protocol:
        model = model.with_rule(PROTOCOLS[protocol].rule)
    with session(address, workers, allow_open):
        found = engine.evaluate(model, films, workers, batch_size)
        stressed = _stressed(model, films, workers, batch_size) if stress else None
    if report:
        write_bytes(report, evaluation_page(model, films, found, stressed).encode())
    for note in found.notes:
        say(f"note: {note}")
    if as_json:
        document = _protocol_document(protocol, found) if protocol else _evaluation_document(found)
        typer.echo(json.dumps(document | ({"stress": stress_document(stressed)} if stressed else {})))
        return
    if protocol:
        show(_films(found), _metrics_table(_of_protocol(protocol, found)))
    else:
        _show_evaluation(found)
    if stressed:
        show_stress(stressed)


def compare(
    first: BundleUri,
    second: BundleUri,
    dataset: DatasetUri,
    split: Split = "val",
    labels: Labels = None,
    exclude: Exclude = None,
    workers: Workers = 1,
    report: Report = None,
    address: Address = None,
    allow_open: AllowOpen = False,
    as_json: Json = False,
) -> None:
    """Compare two models on the same films: every metric of both, and the paired difference with its 95 % interval."""
    films = subset(dataset, split, labels, exclude)
    from covseg_ray.engine.bundle_io import load_bundle
    from covseg_ray.engine.evaluation import compare as engine
    from covseg_ray.engine.evaluation.report import compare_page
    from covseg_ray.engine.session import session
    from covseg_ray.storage.filesystem import write_bytes

    one, two = load_bundle(first), load_bundle(second)
    engine.require_two(one, two)
    with session(address, workers, allow_open):
        found = engine.compare(one, two, films, workers)
    if report:
        write_bytes(report, compare_page(one, two, films, found).encode())
    for note in found.notes:
        say(f"note: {note}")
    if as_json:
        typer.echo(json.dumps(_comparison_document(found)))
    else:
        _show_comparison(first, second, found)


def _stressed(model: Bundle, films: Subset, workers: int, batch_size: int) -> Stress:
    from covseg_ray.cli.progress import CountProgress
    from covseg_ray.engine.evaluation.stress import stress

    with CountProgress("changed films") as progress:
        return stress(model, films, workers, batch_size, progress.update)


def _evaluation_document(found: Evaluation) -> dict[str, Any]:
    from covseg_ray.segmentation.evaluation.froc import RULE

    curve = [point._asdict() for point in found.free_response.curve]
    return {
        "images": len(found.image_ids),
        "metrics": {name: asdict(each) for name, each in found.metrics.items()},
        "strata": _strata_document(found.strata),
        "calibration": {
            name: {**asdict(each), "bins": [each_bin._asdict() for each_bin in each.bins]}
            for name, each in found.calibration.items()
        },
        "free_response": {"rule": RULE, **asdict(found.free_response), "curve": curve},
        "expected_iou": found.expected_iou._asdict() if found.expected_iou else None,
    }


def _of_protocol(protocol: ProtocolName, found: Evaluation) -> dict[str, Estimate]:
    from covseg_ray.engine.evaluation.protocol import PROTOCOLS

    return {name: each for name, each in found.metrics.items() if name in PROTOCOLS[protocol].metrics}


def _protocol_document(protocol: ProtocolName, found: Evaluation) -> dict[str, Any]:
    metrics = {name: asdict(each) for name, each in _of_protocol(protocol, found).items()}
    return {"images": len(found.image_ids), "protocol": protocol, "metrics": metrics}


def _comparison_document(found: Comparison) -> dict[str, Any]:
    first, second = found.first.metrics, found.second.metrics
    return {
        "images": len(found.first.image_ids),
        "metrics": {
            name: {"a": asdict(first[name]), "b": asdict(second[name]), "difference": asdict(each)}
            for name, each in found.differences.items()
        },
        "strata": _strata_document(found.strata),
        "changed": [
            {"image_id": each.first.image_id, "label": each.first.label, "a": each.first_wrong, "b": each.second_wrong}
            for each in found.changed
        ],
    }


def _strata_document(strata: Mapping[str, Mapping[str, Stratum | ComparedStratum]]) -> dict[str, Any]:
    return {group: {name: asdict(each) for name, each in of.items()} for group, of in strata.items()}


def _show_evaluation(found: Evaluation) -> None:
    from covseg_ray.engine.evaluation.report import expected_iou_words, free_response_words, stratum_words
    from covseg_ray.engine.evaluation.run import ALL

    strata = [
        [stratum_words(group, name), f"{each.images:,}", *_cells(each)]
        for group, of in found.strata.items()
        for name, each in of.items()
    ]
    whole = found.calibration[ALL]
    show(
        _films(found),
        _metrics_table(found.metrics),
        "",
        table(["of them", "films", *IN_STRATA], strata),
        "",
        f"calibration: expected error {whole.expected_error:.4f}, Brier score {whole.brier:.4f}, over all pixels",
        f"free response: {free_response_words(found.free_response)}",
        *([f"expected IoU: {expected_iou_words(found.expected_iou)}"] if found.expected_iou else []),
    )


def _show_comparison(first: str, second: str, found: Comparison) -> None:
    one, two = found.first.metrics, found.second.metrics
    metrics = [
        [
            name,
            f"{one[name].value:.4f}",
            f"{two[name].value:.4f}",
            f"{each.value:+.4f}",
            f"{each.low:+.4f} to {each.high:+.4f}",
            f"{each.not_better:.1%}",
        ]
        for name, each in found.differences.items()
    ]
    changed = [[each.first.image_id, f"{each.first_wrong:.1%}", f"{each.second_wrong:.1%}"] for each in found.changed]
    show(
        f"A  {first}",
        f"B  {second}",
        _films(found.first),
        table(["metric", "A", "B", "B - A", "95 % interval", "B not better"], metrics),
        "",
        table(["films that changed most", "A wrong", "B wrong"], changed),
        "(wrong: the share of a film's pixels marked without infection, or missed)",
    )


def _metrics_table(metrics: Mapping[str, Estimate]) -> Table:
    rows = [[name, f"{each.value:.4f}", f"{each.low:.4f} to {each.high:.4f}"] for name, each in metrics.items()]
    return table(["metric", "value", "95 % interval"], rows)


def _films(found: Evaluation) -> str:
    return f"{len(found.image_ids):,} films" + (f", {found.left_out:,} left out" if found.left_out else "")


def _cells(stratum: Stratum) -> list[str]:
    found = [stratum.metrics.get(name) for name in IN_STRATA]
    return [f"{each.value:.3f} ({each.low:.3f} to {each.high:.3f})" if each else "-" for each in found]

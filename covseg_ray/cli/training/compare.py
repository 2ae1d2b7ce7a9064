"""``covseg-ray compare``: two bundles against the masks of a dataset, on the same films."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

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
from covseg_ray.cli.training.evaluate import metrics_document

if TYPE_CHECKING:
    from covseg_ray.engine.evaluation.compare import Comparison


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
    require_reachable(dataset)
    from covseg_ray.engine.bundle_io import load_bundle
    from covseg_ray.engine.evaluation import compare as engine
    from covseg_ray.engine.evaluation.report import compare_page
    from covseg_ray.engine.session import session
    from covseg_ray.storage.datasets.pack import read_exclusions
    from covseg_ray.storage.datasets.subset import Subset
    from covseg_ray.storage.filesystem import write_bytes

    films = Subset(dataset, split, named(labels) or None, read_exclusions(exclude) if exclude else frozenset())
    request = engine.ComparisonRequest(load_bundle(first), load_bundle(second), films, workers)
    with session(address, workers, allow_open):
        found = engine.compare(request)
    if report:
        write_bytes(report, compare_page(request, found).encode())
    for note in found.notes:
        say(f"note: {note}")
    if as_json:
        typer.echo(json.dumps(_document(found)))
    else:
        _show(first, second, found)


def _document(found: Comparison) -> dict[str, Any]:
    first, second = metrics_document(found.first.metrics), metrics_document(found.second.metrics)
    return {
        "images": len(found.first.image_ids),
        "metrics": {
            name: {"a": first[name], "b": second[name], "difference": asdict(each)}
            for name, each in found.differences.items()
        },
        "strata": {
            group: {
                name: {
                    "images": each.images,
                    "differences": {metric: asdict(change) for metric, change in each.differences.items()},
                }
                for name, each in of.items()
            }
            for group, of in found.strata.items()
        },
        "changed": [
            {"image_id": each.first.image_id, "label": each.first.label, "a": each.first_wrong, "b": each.second_wrong}
            for each in found.changed
        ],
    }


def _show(first: str, second: str, found: Comparison) -> None:
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
    films = f"{len(found.first.image_ids):,} films"
    films += f", {found.first.left_out:,} left out" if found.first.left_out else ""
    show(
        f"A  {first}",
        f"B  {second}",
        films,
        table(["metric", "A", "B", "B - A", "95 % interval", "B not better"], metrics),
        "",
        table(["films that changed most", "A wrong", "B wrong"], changed),
        "(wrong: the share of a film's pixels marked without infection, or missed)",
    )

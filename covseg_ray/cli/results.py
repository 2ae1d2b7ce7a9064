"""``covseg-ray results``: the results of bulk segmentation, in a few numbers or for another program."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from covseg_ray.cli import tables
from covseg_ray.cli.options import Json
from covseg_ray.errors import StorageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

app = typer.Typer(name="results", help="Show and export the results of bulk segmentation.")

Out = Annotated[str, typer.Argument(metavar="OUT", help="Folder or s3:// URI that `segment` wrote.")]


@app.command()
def show(out: Out, as_json: Json = False) -> None:
    """Print how many films were segmented or rejected, and how much infection they show."""
    from covseg_ray.storage.runs.result_table import read_summary

    summary = read_summary(out)
    kept = {name: summary[name] for name in ("inputs", "ok", "rejected", "reasons", "films_per_second", "not_frontal")}
    document = {"out": out, **kept, **_infection(out, summary["ok"])}
    if as_json:
        typer.echo(json.dumps(document))
    else:
        _show(document)


@app.command()
def export(
    out: Out,
    to: Annotated[
        Literal["csv", "png", "coco"],
        typer.Option("--to", help="Export a table of all inputs, the masks, or COCO annotations."),
    ],
    folder: Annotated[str, typer.Argument(metavar="DIR", help="Folder or s3:// URI to write to.")],
) -> None:
    """Export results as results.csv, masks/*.png or annotations.json."""
    from covseg_ray.storage.filesystem import join
    from covseg_ray.storage.runs import exports

    write, name, what = {
        "csv": (exports.export_csv, exports.CSV_FILE, "rows"),
        "png": (exports.export_png, exports.PNG_FOLDER, "masks"),
        "coco": (exports.export_coco, exports.COCO_FILE, "masks"),
    }[to]
    typer.echo(f"{write(out, folder):,} {what} in {join(folder, name)}")


def _infection(out: str, films: int) -> dict[str, Any]:
    """The share of the segmented films that have infection, mean and median of their ``infection_fraction``, and those
    of ``expected_iou`` over the films with infection; None where there is no such film or number. Raises StorageError
    where the results hold other than ``films`` of them.
    """
    import numpy as np

    from covseg_ray.storage.runs.result_table import RESULTS, SUMMARY, read_numbers

    items, fractions = read_numbers(out, "infection_fraction")
    if len(fractions) != films:
        raise StorageError(
            f"{out}: {SUMMARY} counts {films:,} films with a mask, {RESULTS}/ holds {len(fractions):,}; files were "
            "lost or added: segment into another folder"
        )
    rated, expected_iou = read_numbers(out, "expected_iou")
    return {
        "with_infection": float((fractions > 0).mean()) if films else None,
        "infection_fraction": _middle(fractions),
        "expected_iou": _middle(expected_iou[np.isin(rated, items[fractions > 0])]),
    }


def _middle(values: NDArray[np.float64]) -> dict[str, float | None]:
    import numpy as np

    if not len(values):
        return {"mean": None, "median": None}
    return {"mean": float(values.mean()), "median": float(np.median(values))}


def _show(document: dict[str, Any]) -> None:
    fraction, expected_iou = document["infection_fraction"], document["expected_iou"]["median"]
    rows = {
        "inputs": f"{document['inputs']:,}",
        "ok": f"{document['ok']:,}",
        "rejected": f"{document['rejected']:,}",
        **{f"  {reason}": f"{count:,}" for reason, count in document["reasons"].items()},
        "not like a frontal chest film": f"{document['not_frontal']:,}",
        "with infection": _percent(document["with_infection"]),
        "infected share of film, mean": _percent(fraction["mean"]),
        "infected share of film, median": _percent(fraction["median"]),
        **({} if expected_iou is None else {"expected IoU with infection, median": f"{expected_iou:.3f}"}),
        # 0 where the run had ended before the last command
        "films per second": f"{document['films_per_second']:,.1f}" if document["films_per_second"] else "-",
    }
    shown = tables.table(["name", "value"], list(rows.items()), right=("value",), show_header=False)
    tables.show(document["out"], shown)


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.2f} %"

"""The report of a finished bulk run, with a dozen films that are read again from the archive."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from covseg_ray.engine.bulk.read import PICTURE_SIDE, read_films
from covseg_ray.radiograph.film import Radiograph
from covseg_ray.radiograph.frontal_check import LEVEL
from covseg_ray.radiograph.geometry import resize_mask, shrink
from covseg_ray.radiograph.masks import decode_png1
from covseg_ray.reports.archive_page import SegmentedFilm, archive_report
from covseg_ray.storage.runs.result_table import read_numbers, scan
from covseg_ray.storage.runs.worklist import Worklist, read_items

SHOWN = 12
UNLIKE = 6
UNSURE = 6
EXAMPLES = 3


def archive_page(summary: Mapping[str, Any], listing: Worklist) -> str:
    """The report of the run that ``summary`` is of, as HTML."""
    out = summary["out"]
    items, fractions = read_numbers(out, "infection_fraction")
    judged, frontal = read_numbers(out, "frontal")
    spread, unlike = _spread(items, fractions), _least(judged, frontal)
    unsure = _unsure(items[fractions > 0], *read_numbers(out, "expected_iou"))
    films = dict(_films(out, listing, {*spread, *unlike, *unsure}))
    speed = f"{summary['films_per_second']:.1f} films/s" if summary["seconds"] else "finished by an earlier command"
    return archive_report(
        title=f"Bulk segmentation: {summary['source']}",
        facts={
            "Source": summary["source"],
            "Results": f"{out}/results",
            "Model": f"{summary['model']}, id {summary['model_id']}",
            "Speed": speed,
        },
        ok=summary["ok"],
        reasons=summary["reasons"],
        fractions=fractions,
        unsure=[films[item] for item in unsure if item in films],
        films=[films[item] for item in spread if item in films],
        frontal=frontal,
        unlike=[films[item] for item in unlike if item in films],
        rejects=_rejects(out),
    )


def _spread(items: NDArray[np.int64], fractions: NDArray[np.float64]) -> list[int]:
    """Items from the largest infection to the smallest in even steps; those without any only where there is room."""
    order = np.lexsort((items, -fractions))
    infected = int((fractions > 0).sum())
    among = infected if infected >= SHOWN else len(items)
    places = {round(place) for place in np.linspace(0, among - 1, min(SHOWN, among))}
    return [int(items[order[place]]) for place in sorted(places)]


def _least(items: NDArray[np.int64], frontal: NDArray[np.float64]) -> list[int]:
    """The items least like a frontal chest film, of those that do not look like one."""
    order = np.lexsort((items, frontal))[:UNLIKE]
    return [int(items[place]) for place in order if frontal[place] < LEVEL]


def _unsure(infected: NDArray[np.int64], items: NDArray[np.int64], expected_iou: NDArray[np.float64]) -> list[int]:
    """Of the infected items those of the lowest expected IoU; none where the model has no curve for it."""
    order = np.lexsort((items, expected_iou))
    return [int(item) for item in items[order][np.isin(items[order], infected)][:UNSURE]]


def _films(out: str, listing: Worklist, wanted: Collection[int]) -> Iterator[tuple[int, SegmentedFilm]]:
    columns = ("item", "image_id", "height", "width", "infection_fraction", "severity", "expected_iou", "mask")
    tables = scan(out, columns, pc.field("item").isin(list(wanted)))
    rows = {row["item"]: row for table in tables for row in table.to_pylist()}
    members = read_items(out, listing, wanted)
    by_place = sorted(wanted)
    films = zip(by_place, read_films(members[item] for item in by_place), strict=True)
    for item, (_, _, film) in films:
        if isinstance(film, Radiograph) and film.pixels.shape == (rows[item]["height"], rows[item]["width"]):
            yield item, _segmented(rows[item], film)


def _segmented(row: Mapping[str, Any], film: Radiograph) -> SegmentedFilm:
    picture_HW = shrink(film.pixels, PICTURE_SIDE)
    return SegmentedFilm(
        image_id=row["image_id"],
        image_HW=picture_HW,
        mask_HW=resize_mask(decode_png1(row["mask"]), picture_HW.shape),
        infection_fraction=row["infection_fraction"],
        severity=json.loads(row["severity"])["whole"] if row["severity"] else None,
        expected_iou=row["expected_iou"],
    )


def _rejects(out: str) -> dict[str, list[tuple[str, str]]]:
    """The first few of each reason."""
    found: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for table in scan(out, ("image_id", "reason", "detail"), pc.field("reason").is_valid()):
        for row in table.to_pylist():
            if len(found[row["reason"]]) < EXAMPLES:
                found[row["reason"]].append((row["image_id"], row["detail"] or ""))
    return found

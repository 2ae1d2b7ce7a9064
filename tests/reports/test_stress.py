"""The section about changed films: every value on the page, and the chart's dots where the values are."""

from __future__ import annotations

import io
import re
from dataclasses import replace

import numpy as np
from PIL import Image
from report_pages import Page

from covseg_ray.reports import figures
from covseg_ray.reports.page import Findings, model_report
from covseg_ray.reports.stress import StressRow

AS_IS = StressRow(
    "as it is",
    {"COVID-19": (0.995, 0.98, 1.0), "Normal": (0.0, 0.0, 0.0)},
    {"false_alarm": (0.0, 0.0, 0.0), "iou_image": (0.687, 0.65, 0.72)},
)
JPEG = StressRow(
    "jpeg-75",
    {"COVID-19": (0.994, 0.97, 1.0), "Normal": (0.275, 0.21, 0.34)},
    {"false_alarm": (0.276, 0.22, 0.35), "iou_image": (0.661, 0.63, 0.7)},
    {"COVID-19": (-0.001, -0.003, 0.0), "Normal": (0.275, 0.21, 0.34)},
    {"false_alarm": (0.2761, 0.22, 0.35), "iou_image": (-0.026, -0.03, -0.02)},
    (0.83, 0.79, 0.86),
)


def page_with(*rows: StressRow) -> str:
    return model_report(title="t", metrics={}, films=[], facts={}, ious=[], findings=Findings(stress=rows))


def cells(html: str) -> list[list[list[str]]]:
    """The rows of each table of the section, without its head; a value and its interval are one cell."""
    section = html[html.index("Changed films") :]
    tables = re.findall(r"<tbody>(.*?)</tbody>", section, flags=re.DOTALL)
    return [
        [
            [re.sub(r"<[^>]+>", " ", cell).strip() for cell in re.findall(r"<t[hd].*?>(.*?)</t[hd]>", row, re.DOTALL)]
            for row in re.findall(r"<tr>(.*?)</tr>", table, flags=re.DOTALL)
        ]
        for table in tables
    ]


def test_the_tables_have_each_value_with_its_interval() -> None:
    values, differences = cells(page_with(AS_IS, JPEG))
    assert [row[0] for row in values] == ["as it is", "jpeg-75"]
    assert [cell.split() for cell in values[0][1:]] == [
        ["0.995", "0.980", "to", "1.000"], ["0.000", "0.000", "to", "0.000"], ["0.000", "0.000", "to", "0.000"],
        ["0.687", "0.650", "to", "0.720"], ["–"],
    ]  # fmt: skip
    assert [cell.split()[0] for cell in values[1][1:]] == ["0.994", "0.275", "0.276", "0.661", "0.830"]
    (row,) = differences
    assert row[0] == "jpeg-75"
    assert [cell.split()[0] for cell in row[1:]] == ["-0.001", "+0.275", "+0.276", "-0.026"]


def test_a_metric_that_no_film_allows_after_a_change_is_a_dash() -> None:
    as_is = replace(AS_IS, metrics={**AS_IS.metrics, "iou_pooled": (0.7, 0.6, 0.8)})
    values, differences = cells(page_with(as_is, JPEG))
    assert [row[5].split()[0] for row in values] == ["0.700", "–"]
    assert differences[0][5] == "–"


def test_columns_are_labels_metrics_and_the_probe_where_there_is_one() -> None:
    def heads(html: str) -> list[str]:
        return re.findall(r'<th scope="col"[^>]*>([^<]+)</th>', html[html.index("Changed films") :])

    columns = ["Change", "COVID-19 marked", "Normal marked", "False alarms", "IoU, per infected film"]
    assert heads(page_with(AS_IS, JPEG)) == [*columns, "Probe AUC", *columns]
    without = StressRow(JPEG.name, JPEG.marked, JPEG.metrics, JPEG.marked_differences, JPEG.differences)
    assert heads(page_with(AS_IS, without)) == [*columns, *columns]
    assert "The probe" not in page_with(AS_IS, without)


def test_the_chart_has_its_values_in_words_and_its_own_size() -> None:
    page = Page(page_with(AS_IS, JPEG))
    (chart,) = (tag for tag in page.all("img") if "after each change" in (tag["alt"] or ""))
    assert "False alarms 0.000 as it is, 0.276 to 0.276 after a change" in (chart["alt"] or "")
    assert "IoU, per infected film 0.687 as it is, 0.661 to 0.661" in (chart["alt"] or "")
    assert (chart["width"], chart["height"]) == ("1260", str(round(5 * figures.ROW_INCHES * figures.DOTS_PER_INCH)))
    assert len(page.all("caption")) == len(page.all("table"))


def test_a_page_without_changes_has_no_such_section() -> None:
    html = model_report(title="t", metrics={}, films=[], facts={}, ious=[], findings=Findings())
    assert "Changed films" not in html


def test_dots_lie_in_their_panel_and_row_where_their_values_are() -> None:
    rows = {"one": [(0.0, 0.0, 0.0), (0.5, 0.5, 0.5), (1.0, 1.0, 1.0)], "two": [(1.0, 1.0, 1.0)] * 3}
    png = figures.interval_panels(["a", "b", "c"], rows, theme=figures.LIGHT)
    picture_HW4 = np.asarray(Image.open(io.BytesIO(png)).convert("RGBA")).astype(int)
    assert figures.size(png) == picture_HW4.shape[1::-1]

    def dots(colour: str) -> np.ndarray:
        rgb = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
        found_HW = (np.abs(picture_HW4[..., :3] - rgb).max(-1) < 8) & (picture_HW4[..., 3] > 200)
        lines = np.flatnonzero(found_HW.any(axis=1))
        bands = np.split(lines, np.flatnonzero(np.diff(lines) > 1) + 1)
        return np.array([[band.mean(), np.nonzero(found_HW[band])[1].mean()] for band in bands])

    first, second = dots(figures.LIGHT.lines[0]), dots(figures.LIGHT.lines[1])
    assert len(first) == len(second) == 3
    left, right = np.diff(first[:, 1])
    assert left > 100
    assert abs(left - right) <= 1  # 0, 0.5 and 1 at equal distances
    assert first[:, 0].tolist() == second[:, 0].tolist()  # a row is a row in both panels
    assert np.ptp(second[:, 1]) == 0
    assert second[0, 1] > first[2, 1]

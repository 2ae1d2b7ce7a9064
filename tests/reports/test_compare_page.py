from __future__ import annotations

import re

import pytest
from findings import findings
from report_pages import Page, make_films

from covseg_ray.reports.compare_page import ComparedMetric, compare_report
from covseg_ray.reports.film_result import ChangedFilm
from covseg_ray.reports.metric_words import METRICS
from covseg_ray.reports.page import Findings, StratumRow
from covseg_ray.segmentation.evaluation.metrics import LOWER_IS_BETTER


def metric(name: str, *change: float) -> ComparedMetric:
    return ComparedMetric(name, (0.5, 0.4, 0.6), (0.55, 0.45, 0.65), change, 0.03)


@pytest.fixture(scope="module")
def html() -> str:
    a, b = make_films(2, size=64)
    return compare_report(
        title="Two models",
        facts={"A": "one", "B": "two"},
        metrics=[metric("false_alarm", -0.2, -0.3, -0.1), metric("iou_pooled", 0.05, -0.01, 0.11)],
        strata=[StratumRow("COVID-19", 24, {"iou_image": (0.05, -0.01, 0.11)})],
        findings=findings("A", "B"),
        films=[ChangedFilm(a, b, 0.2, 0.1), ChangedFilm(b, a, 0.05, 0.15)],
    )


def test_metrics_stand_in_their_order_with_both_intervals_and_the_difference(html: str) -> None:
    assert re.findall(r"<code>(\w+)</code>", html) == ["iou_pooled", "false_alarm"]
    text = Page(html).text
    assert "+0.050-0.010 to +0.110" in text
    assert "-0.200-0.300 to -0.100" in text
    assert "0.5500.450 to 0.650" in text
    assert "3.0 %" in text


@pytest.mark.parametrize(
    ("name", "low", "high", "verdict"),
    [
        ("iou_pooled", 0.01, 0.1, "B is better"),
        ("iou_pooled", -0.1, -0.01, "A is better"),
        ("iou_pooled", 0.0, 0.1, "no clear difference"),
        ("false_alarm", 0.01, 0.1, "A is better"),
        ("severity_error", -0.1, -0.01, "B is better"),
    ],
)
def test_the_verdict_is_what_the_interval_allows(name: str, low: float, high: float, verdict: str) -> None:
    assert metric(name, (low + high) / 2, low, high).verdict == verdict


def test_page_and_bootstrap_agree_on_what_is_better() -> None:
    assert {name for name, words in METRICS.items() if not words.higher_is_better} == LOWER_IS_BETTER


def test_changed_films_show_what_both_models_made_of_them(html: str) -> None:
    page = Page(html)
    assert page.text.index("Where B is less wrong") < page.text.index("Where B is more wrong")
    assert "wrong: 20.0 % → 10.0 %" in page.text
    assert "wrong: 5.0 % → 15.0 %" in page.text
    captions = re.findall(r'<figcaption class="(\w+)">\1</figcaption>', html)
    assert captions == ["Film", "Truth", "A", "B"] * 2


def test_differences_by_group_carry_a_sign_and_both_curves_are_drawn(html: str) -> None:
    page = Page(html)
    assert "COVID-19" in page.text
    assert html.count("+0.050<span") == 1
    assert "A: expected calibration error 0.0312" in page.text
    assert "B: expected calibration error 0.0312" in page.text
    assert all(tag.get("alt") for tag in page.all("img"))
    assert len(page.all("caption")) == len(page.all("table")) == 3


def test_models_that_change_no_film_still_make_a_page() -> None:
    page = Page(compare_report(title="t", facts={}, metrics=[], strata=[], findings=Findings(), films=[]))
    assert "not a medical device" in page.text
    assert "Where B" not in page.text

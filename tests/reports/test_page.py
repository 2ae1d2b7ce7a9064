from __future__ import annotations

import base64
import io
import re
from dataclasses import replace

import numpy as np
import pytest
from findings import findings
from PIL import Image
from report_pages import Page, make_films

from covseg_ray.reports.film_result import FilmResult
from covseg_ray.reports.page import Findings, model_report

METRICS = {"iou_pooled": (0.713, 0.69, 0.735), "false_alarm": (0.25, 0.2, 0.3), "iou_two_class": (0.828, 0.81, 0.84)}
HISTORY = [{"epoch": e, "loss": 1 / e, "val_loss": 1.1 / e, "iou_two_class": 0.2 * e} for e in (1, 2, 3)]
HEADINGS = ("Film and mask", "Film, truth and prediction")


def train_page(films: list[FilmResult], **changes: object) -> str:
    facts = {"Dataset": "s3://films/set", "Digest": "3fa9"}
    return page_of(films, **{"title": "A run", "history": HISTORY, "facts": facts} | changes)


def page_of(films: list[FilmResult], **changes: object) -> str:
    given = {"title": "t", "metrics": METRICS, "films": films, "facts": {}, "findings": Findings()}
    return model_report(**given | {"ious": [film.iou for film in films]} | changes)


@pytest.fixture(scope="module")
def html() -> str:
    return train_page(make_films(12))


def test_every_section_is_there(html: str) -> None:
    page = Page(html)
    for heading in (
        "What was measured",
        "Metrics",
        "Training",
        "Film and mask",
        "Film, truth and prediction",
        "Best, median",
    ):
        assert heading in page.text
    assert "not a medical device" in page.text
    assert "the best epoch by iou_two_class is 3" in page.text
    assert "s3://films/set" in page.text


def test_metrics_show_value_and_interval_in_the_contracts_order(html: str) -> None:
    page = Page(html)
    assert "0.713" in page.text
    assert "0.690 – 0.735" in page.text
    assert re.findall(r"<code>(\w+)</code>", html) == ["iou_two_class", "iou_pooled", "false_alarm"]


def test_the_page_asks_nothing_of_the_network_and_runs_nothing(html: str) -> None:
    page = Page(html)
    sources = [tag.get("src") or tag.get("srcset") or tag.get("href") for _, tag in page.tags]
    assert all(source.startswith("data:image/png;base64,") for source in sources if source)
    assert not page.all("script")
    assert "url(" not in html
    assert "@import" not in html
    assert any(tag.get("content", "").startswith("default-src 'none'") for tag in page.all("meta"))


def test_noise_films_in_full_number_stay_under_four_megabytes(html: str) -> None:
    assert len(html) < 4_000_000
    assert len(train_page(make_films(12, size=700))) < 4_000_000


def test_every_picture_has_a_text_and_every_table_a_caption(html: str) -> None:
    page = Page(html)
    assert all(tag.get("alt") for tag in page.all("img"))
    assert len(page.all("caption")) == len(page.all("table")) == 3
    assert page.all("html")[0]["lang"] == "en"


def test_the_film_that_is_shown_is_the_film(html: str) -> None:
    first = make_films(1)[0]
    shown = next(tag for tag in Page(html).all("img") if tag["alt"] == f"Chest film {first.image_id}")
    source = shown["src"] or ""
    picture_HW = np.asarray(Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))))
    np.testing.assert_array_equal(picture_HW, first.image_HW)


def test_examples_are_the_first_films_with_infection_each_once() -> None:
    free, *infected = make_films(10)
    films = [replace(free, truth_HW=np.zeros_like(free.truth_HW), iou=None), *infected]
    html = train_page(films, ious=[0.5])
    pairs, triplets = (html.split(f"<h2>{heading}</h2>")[1].split("</section>")[0] for heading in HEADINGS)
    assert re.findall("<span>(film-.*?)</span>", pairs) == [film.image_id for film in infected[:3]]
    assert re.findall("<span>(film-.*?)</span>", triplets) == [film.image_id for film in infected[3:7]]


def test_the_share_of_infection_is_in_the_alternative_text(html: str) -> None:
    assert "film-00 with the true mask: 6.2% of the film" in html  # a quarter of each side


def test_names_cannot_inject_markup() -> None:
    hostile = '<script>alert("x")</script>'
    film = make_films(1, size=32)[0]
    bad = FilmResult(hostile, hostile, film.image_HW, film.truth_HW, film.predicted_HW, film.iou)
    html = train_page([bad], title=hostile, facts={hostile: hostile}, metrics={hostile: (0.1, 0.0, 0.2)})
    assert not Page(html).all("script")
    assert "&lt;script&gt;" in html


def test_an_evaluation_has_no_training_section() -> None:
    page = Page(page_of(make_films(3, size=32)))
    assert "IoU of each film" in page.text
    for heading in ("Training", "Film and mask"):
        assert heading not in page.text


def test_groups_calibration_and_false_regions_have_a_section_each() -> None:
    html = page_of([], findings=findings("model"))
    page = Page(html)
    for text in ("Results by group", "Calibration", "Lesions found, false regions marked", "a rule", "1,466"):
        assert text in page.text
    assert "0.6410.620 to 0.660" in page.text  # a value over its interval
    assert "expected calibration error 0.0312, Brier score 0.0211" in page.text
    table = html[html.index('class="strata"') :]
    assert re.findall(r'<th scope="col" class="number">([^<]+)</th>', table) == [
        "Films", "IoU, per infected film", "False alarms", "Lung IoU, per film",
    ]  # fmt: skip
    assert table.count("–</td>") == 3  # what a group has no film to measure on
    assert [tag["alt"].split(".")[0] for tag in page.all("img")] == [
        "Reliability diagram",
        "Lesions found over false regions",
        "Expected and true IoU",
    ]
    assert "model: rank correlation with the true IoU 0.71" in page.text


def test_without_them_the_sections_are_not_there(html: str) -> None:
    for heading in ("Results by group", "Calibration", "Lesions found"):
        assert heading not in html


def test_a_page_about_nothing_still_stands() -> None:
    page = Page(page_of([], metrics={}))
    assert "not a medical device" in page.text
    assert not page.all("img")


def test_the_histogram_takes_scores_of_films_that_are_not_shown() -> None:
    html = page_of(make_films(2, size=32), ious=[0.2, 0.4, 0.9])
    assert "3 films with infection; median 0.40" in html

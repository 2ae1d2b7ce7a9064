"""The report of a search."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence

import numpy as np
import pytest
from PIL import Image
from report_pages import Page
from scipy import ndimage

from covseg_ray.reports.search_page import search_report
from covseg_ray.reports.trial_result import FAILED, FINISHED, STOPPED, TrialResult, best_of

BLUE = (0x00, 0x72, 0xB2)


def trial(number: int, rate: float, loss: str, scores: Sequence[float], ended: str) -> TrialResult:
    history = [{"epoch": epoch, "iou_all": score} for epoch, score in enumerate(scores, start=1)]
    return TrialResult(number, {"train.learning_rate": rate, "train.loss": loss}, 3, history, ended)


RESULTS = [
    trial(1, 0.001, "dice", (0.1, 0.5, 0.4), FINISHED),
    trial(2, 0.1, "<b>&", (0.2,), STOPPED),
    trial(3, 0.01, "dice", (0.3, 0.6, 0.7), FINISHED),
    trial(4, 0.02, "dice", (), f"{FAILED}: no memory"),
    trial(5, 0.03, "dice", (0.9,), f"{FAILED}: no disk"),
]


@pytest.fixture(scope="module")
def page() -> Page:
    return Page(search_report(title="A search", results=RESULTS, select="iou_all", facts={"Films": "s3://films"}))


def test_the_best_is_the_highest_of_all_epochs_but_not_of_one_that_failed() -> None:
    assert best_of(RESULTS, "iou_all").number == 3
    assert best_of(RESULTS[:2], "iou_all").number == 1
    assert best_of([*RESULTS[:2], trial(6, 1, "dice", (0.5, 0.5), STOPPED)], "iou_all").number == 1  # of equals
    assert (RESULTS[0].best("iou_all"), RESULTS[3].best("iou_all")) == ({"epoch": 2, "iou_all": 0.5}, None)
    assert math.isnan(RESULTS[3].score("iou_all"))


def test_every_trial_stands_on_the_page_with_its_values(page: Page) -> None:
    text = " ".join(page.text.split())
    for words in ("1 of them stopped early", "8", "of 15 that all trials may have", "failed: no memory", "<b>&"):
        assert words in text
    assert text.count("3 of 3") == 2
    links = [link["href"] for link in page.all("a")]
    assert links == ["trials/0003/report.html"]


def test_there_is_a_chart_of_epochs_and_one_of_each_key(page: Page) -> None:
    shown = [picture["alt"] or "" for picture in page.all("img")]
    assert len(shown) == 3
    assert "trial 3 0.700" in shown[0]
    assert shown[1].startswith("iou_all over train.learning_rate: 0.001 0.500; 0.01 0.700; 0.03 0.900; 0.1 0.200")
    assert shown[2].startswith("iou_all over train.loss: <b>& 0.200; dice 0.500; dice 0.700; dice 0.900")


def test_each_trial_is_a_dot_over_its_value(page: Page) -> None:
    source = page.all("img")[1]["src"] or ""
    picture_HW4 = np.asarray(Image.open(io.BytesIO(base64.b64decode(source.split(",")[1]))).convert("RGBA"))
    is_blue_HW = (np.abs(picture_HW4[..., :3].astype(int) - BLUE).max(axis=2) < 8) & (picture_HW4[..., 3] > 100)
    labels_HW, _ = ndimage.label(ndimage.binary_closing(is_blue_HW, iterations=3))  # the grid shines through
    sizes = np.bincount(labels_HW.ravel())[1:]
    assert (sizes > 200).sum() == 3  # the fourth lies under the star of the best


def test_the_page_asks_for_nothing_from_elsewhere(page: Page) -> None:
    sources = [value for tag in ("img", "source") for each in page.all(tag) for value in each.values() if value]
    assert [each for each in sources if each.startswith("http")] == []
    assert page.all("script") == []

from __future__ import annotations

import base64
import html as markup
import io
import re
import shutil
import statistics
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from report_pages import Page

from covseg_ray.reports import charts, figures
from covseg_ray.reports.archive_page import SegmentedFilm, archive_report, short_id

HOSTILE = """<script>alert("x")</script><img src=x onerror='alert(1)'>&amp;"""
LONG = "begin/" + "a-folder/" * 110 + "end.dcm"
BLUE = (0x00, 0x72, 0xB2)
NARROW = 390  # pixels: a telephone


def segmented(image_id: str, fraction: float, severity: float | None = None, size: int = 64) -> SegmentedFilm:
    """A grey film with a square marked in its middle."""
    image_HW = np.full((size, size), 90, np.uint8)
    mask_HW = np.zeros((size, size), np.uint8)
    mask_HW[size // 4 : size // 2, size // 4 : size // 2] = 1
    return SegmentedFilm(image_id, image_HW, mask_HW, fraction, severity)


def report(**changes: Any) -> str:
    """Six inputs, three of them segmented, infection found on two."""
    films = [segmented("few", 0.05), segmented("none", 0.0, 0.0), segmented("many", 0.215, 0.6)]
    corrupt = [(f"bad-{index}", f"its data ends at {index}") for index in range(3)]
    return archive_report(
        **{
            "title": "An archive",
            "facts": {"Source": "s3://films/archive", "Model": "3fa9"},
            "ok": 3,
            "reasons": {"empty": 1, "corrupt": 2, "truncated": 0},
            "fractions": [0.05, 0.0, 0.215],
            "unsure": [],
            "films": films,
            "frontal": [0.4, 0.001, 1.0],
            "unlike": [],
            "rejects": {"corrupt": corrupt, "empty": [("blank", "no bytes")]},
        }
        | changes
    )


def cards(html: str) -> dict[str, tuple[str, str]]:
    found = re.findall(r"<li><span>([^<]*)</span><b>([^<]*)</b><span>([^<]*)</span></li>", html)
    return {title: (value, note) for title, value, note in found}


def captions(html: str) -> list[str]:
    """The words under the films, in the order of the page."""
    sheet = html.partition('<div class="sheet">')[2]
    return [
        re.sub("<br>|\\s+", " ", re.sub("</?b(?:di)?\\b[^>]*>", "", each))
        for each in re.findall("<figcaption>(.*?)</figcaption>", sheet)
    ]


def rows(html: str) -> list[tuple[str, str, str]]:
    """Reason, inputs and share of each row of the rejects."""
    table = html.partition('<table class="rejects">')[2]
    number = r'\s*<td class="number">([^<]*)</td>'
    return re.findall(rf'<th scope="row">([^<]*)</th>{number}{number}', table)


def decoded(source: str | None) -> np.ndarray:
    assert source is not None
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))).convert("RGB")).astype(int)


def test_the_cards_count_inputs_segmented_rejected_and_films_with_infection() -> None:
    assert cards(report()) == {
        "Inputs": ("6", ""),
        "Segmented": ("3", "50.0% of the inputs"),
        "Rejected": ("3", "50.0% of the inputs"),
        "Infection found": ("66.7%", "on 2 of 3 films"),
    }


def test_the_facts_and_the_note_stand_on_the_page() -> None:
    page = Page(report())
    assert "s3://films/archive" in page.text
    assert "not a medical device" in page.text
    assert page.all("html")[0]["lang"] == "en"
    assert len(page.all("caption")) == len(page.all("table")) == 2


def test_a_million_films_in_an_array_are_counted_rightly() -> None:
    rng = np.random.default_rng(3)
    shares_N = np.where(rng.random(1_000_000) < 0.6, 0.0, rng.beta(1.3, 9.0, 1_000_000))
    html = report(ok=1_000_000, reasons={"corrupt": 120}, fractions=shares_N, rejects={})
    found = sorted(share for share in shares_N.tolist() if share > 0)
    tenths = statistics.quantiles(found, n=10, method="inclusive")
    none = 1_000_000 - len(found)
    assert cards(html)["Inputs"] == ("1,000,120", "")
    assert cards(html)["Rejected"] == ("120", "under 0.1% of the inputs")
    assert cards(html)["Infection found"] == (f"{len(found) / 1e6:.1%}", f"on {len(found):,} of 1,000,000 films")
    assert f"No infection was found on {none:,} of 1,000,000 films ({none / 1e6:.1%}); the chart" in html
    middle = f"median {statistics.median(found):.1%}, 80 % of them between {tenths[0]:.1%} and {tenths[-1]:.1%}"
    assert f"{len(found):,} films with infection found; {middle}" in html


def test_films_stand_the_most_infected_first_with_their_shares() -> None:
    assert captions(report()) == [
        "21.5% of the film, 60.0% of the lung many",
        "5.0% of the film few",
        "0.0% of the film, 0.0% of the lung none",
    ]
    assert "3 of 3 segmented films" in report()


def test_equal_films_stand_by_id_whatever_the_order_given() -> None:
    films = [segmented(name, 0.1) for name in "cab"]
    orders = [[caption[-1] for caption in captions(report(films=each))] for each in (films, films[::-1])]
    assert orders == [["a", "b", "c"]] * 2


def test_the_picture_is_the_film_with_its_mask() -> None:
    picture_HW3 = decoded(Page(report(films=[segmented("few", 0.05)])).all("img")[-1]["src"])
    assert picture_HW3.shape == (64, 64, 3)
    coloured_HW = np.ptp(picture_HW3, axis=2) > 10
    expected_HW = np.zeros((64, 64), bool)
    expected_HW[16:32, 16:32] = True
    np.testing.assert_array_equal(coloured_HW, expected_HW)
    contour, inside = np.ptp(picture_HW3[16, 16:32], axis=1), np.ptp(picture_HW3[17:31, 17:31], axis=2)
    assert contour.min() > 3 * inside.max()


def test_films_of_any_size_and_shape_are_shown_small() -> None:
    rng = np.random.default_rng(0)
    shapes = {"wide": (300, 2000), "tall": (900, 700), "dot": (1, 1), "thread": (2000, 2)}
    films = [
        SegmentedFilm(name, rng.integers(0, 256, shape, np.uint8), np.ones(shape, np.uint8), 1.0, None)
        for name, shape in shapes.items()
    ]
    images = {(tag["alt"] or "").split()[0]: tag for tag in Page(report(films=films)).all("img")[1:]}
    sizes = {name: decoded(images[name]["src"]).shape[:2] for name in shapes}
    assert sizes == {"wide": (48, 320), "tall": (320, 249), "dot": (1, 1), "thread": (320, 1)}
    assert all((int(images[name]["height"] or 0), int(images[name]["width"] or 0)) == sizes[name] for name in shapes)


def test_rejects_stand_by_reason_the_commonest_first() -> None:
    assert rows(report()) == [("corrupt", "2", "33.3%"), ("empty", "1", "16.7%")]
    many = report(ok=989_999, reasons={"truncated": 5_000, "colour": 1, "empty": 5_000})
    assert rows(many) == [("empty", "5,000", "0.5%"), ("truncated", "5,000", "0.5%"), ("colour", "1", "under 0.1%")]


def test_the_examples_of_a_reason_stand_with_their_details() -> None:
    examples = re.findall(r'<li><bdi title="([^"]*)">[^<]*</bdi><br><span class="soft">([^<]*)</span>', report())
    assert examples == [
        ("bad-0", "its data ends at 0"),
        ("bad-1", "its data ends at 1"),
        ("bad-2", "its data ends at 2"),
        ("blank", "no bytes"),
    ]


@pytest.mark.parametrize(
    ("frontal", "words"),
    [
        ([0.4, 0.001, 1.0], "1 of 3 films (33.3%) with a frontal below 0.005, which about 0.5% of true frontal"),
        ([0.0049, 0.001], "2 of 2 films (100.0%) with a frontal below 0.005"),
        ([0.4, 0.005, 1.0], "Every film looks like a frontal chest film."),
    ],
)
def test_films_that_look_like_no_chest_film_are_counted(frontal: Sequence[float], words: str) -> None:
    assert words in " ".join(Page(report(frontal=frontal)).text.split())


def test_films_that_look_like_no_chest_film_are_shown_in_their_order() -> None:
    html = report(unlike=[segmented("photograph", 0.3), segmented("hand", 0.1)])
    _, _, section = html.partition("Not like a frontal chest film")
    assert captions(section) == ["30.0% of the film photograph", "10.0% of the film hand"]


def test_films_to_look_at_first_stand_in_their_order_with_their_number() -> None:
    films = [replace(segmented(name, 0.1, 0.5), expected_iou=value) for name, value in (("b", 0.104), ("a", 0.51))]
    _, _, section = report(unsure=films).partition("<h2>Look at these first</h2>")
    assert captions(section.partition("</section>")[0]) == [
        "expected IoU 0.10 10.0% of the film, 50.0% of the lung b",
        "expected IoU 0.51 10.0% of the film, 50.0% of the lung a",
    ]
    assert "Look at these first" not in report()


def test_an_empty_archive_has_a_page() -> None:
    html = report(ok=0, reasons={}, fractions=[], films=[], frontal=[], rejects={}, facts={})
    page = Page(html)
    assert cards(html) == {
        "Inputs": ("0", ""),
        "Segmented": ("0", ""),
        "Rejected": ("0", ""),
        "Infection found": ("–", "no film was segmented"),
    }
    assert "No film was segmented." in page.text
    assert "No input was rejected." in page.text
    assert not page.all("img")


def test_an_archive_of_rejects_alone_has_a_page() -> None:
    html = report(ok=0, reasons={"corrupt": 5}, fractions=[], films=[], frontal=[])
    assert cards(html)["Rejected"] == ("5", "100.0% of the inputs")
    assert rows(html) == [("corrupt", "5", "100.0%")]
    assert not Page(html).all("img")


@pytest.mark.parametrize(
    ("fractions", "words", "drawn"),
    [
        ([0.0, 0.0], "No infection was found on 2 of 2 films (100.0%).", False),
        ([0.1, 0.2], "Infection was found on every film.", True),
        ([0.1, 0.0], "No infection was found on 1 of 2 films (50.0%); the chart counts the others.", True),
    ],
)
def test_films_without_infection_are_counted_in_words(fractions: Sequence[float], words: str, drawn: bool) -> None:
    page = Page(report(ok=2, fractions=fractions, films=[]))
    assert words in page.text
    assert bool(page.all("source")) == drawn


@pytest.mark.parametrize("wild", [HOSTILE, LONG, HOSTILE * 20, "\u202egnp.mlif", "x" * 1000])
def test_names_cannot_inject_markup_nor_lose_a_sign(wild: str) -> None:
    html = report(
        title=wild,
        facts={wild: wild},
        reasons={wild: 2},
        films=[segmented(wild, 0.1)],
        rejects={wild: [(wild, wild)]},
    )
    page, plain = Page(html), Page(report(films=[segmented("film", 0.1)], rejects={}))
    assert {name for name, _ in page.tags} <= {name for name, _ in plain.tags} | {"ul", "li"}
    assert not any(key.startswith("on") for _, attributes in page.tags for key in attributes)
    assert [tag["title"] for tag in page.all("bdi")] == [wild, wild]
    assert page.all("img")[-1]["alt"] == f"{wild} with the predicted mask: 10.0% of the film is infection"
    assert page.text.count(short_id(wild)) >= 2


def test_a_long_id_is_shown_by_its_beginning_and_its_end() -> None:
    shown = short_id(LONG)
    assert len(shown) == 60
    assert (shown[:20], shown[20], shown[21:]) == (LONG[:20], "…", LONG[-39:])
    assert short_id("y" * 60) == "y" * 60
    assert LONG not in Page(report(films=[segmented(LONG, 0.1)])).text


def test_the_page_asks_nothing_of_the_network_and_runs_nothing() -> None:
    html = report()
    page = Page(html)
    sources = [tag[key] for _, tag in page.tags for key in ("src", "srcset", "href", "data", "action") if tag.get(key)]
    assert len(sources) == 5  # three films, and the chart for light and dark pages
    assert all(source.startswith("data:image/png;base64,") for source in sources if source)
    assert not page.all("script")
    assert "url(" not in html
    assert "@import" not in html
    assert any((tag.get("content") or "").startswith("default-src 'none'") for tag in page.all("meta"))


@pytest.mark.parametrize(
    ("share", "words"),
    [
        (0.0, "0.0%"),
        (1e-6, "under 0.1%"),
        (0.001, "0.1%"),
        (0.4567, "45.7%"),
        (0.99999, "over 99.9%"),
        (1.0, "100.0%"),
    ],
)
def test_a_share_is_rounded_neither_to_none_nor_to_all(share: float, words: str) -> None:
    assert charts.percent(share) == words


def blue(png: bytes) -> np.ndarray:
    """Where a light chart has bars, bool [H, W]."""
    picture_HW4 = np.asarray(Image.open(io.BytesIO(png)).convert("RGBA")).astype(int)
    found_HW: np.ndarray = (np.abs(picture_HW4[..., :3] - BLUE).max(-1) < 8) & (picture_HW4[..., 3] > 200)
    return found_HW


def test_the_bars_are_as_high_as_films_were_counted() -> None:
    shares_N = np.array([0.005] * 4 + [0.085] * 3 + [0.185])  # the median falls between the bars
    blue_HW = blue(figures.histogram(shares_N, "Share", theme=figures.LIGHT, percent=True))
    columns = np.flatnonzero(blue_HW.any(0))
    bars = np.split(columns, np.flatnonzero(np.diff(columns) > 1) + 1)
    heights = np.array([blue_HW[:, bar].any(1).sum() for bar in bars])
    assert heights / heights[-1] == pytest.approx([4, 3, 1], rel=0.05)


@pytest.mark.parametrize(("most", "end"), [(0.015, 0.02), (0.05, 0.05), (0.3, 0.4), (0.45, 0.6), (0.95, 1.0)])
def test_the_axis_ends_at_the_next_round_share(most: float, end: float) -> None:
    def width(last: float, count: int) -> int:
        shares_N = (np.arange(count) + 0.5) / count * last
        shares_N[-1] = last - 1e-9 if last < end else last
        columns = np.flatnonzero(blue(figures.histogram(shares_N, "Share", theme=figures.LIGHT, percent=True)).any(0))
        return int(columns[-1] - columns[0])

    bars = round(20 * most / end)
    assert width(most, bars) / width(1.0, 20) == pytest.approx(most / end, abs=0.01)


def test_no_width_is_fixed_beyond_a_telephones() -> None:
    html = report()
    style = re.findall("<style>(.*?)</style>", html, flags=re.DOTALL)[0]
    pixels = {"rem": 16, "px": 1}
    fixed = re.findall(r"(?<![-\w])(?:min-)?width:\s*([\d.]+)(rem|px)", style) + re.findall(
        r"minmax\(([\d.]+)(rem|px)", style
    )
    assert len(fixed) >= 2
    assert all(float(number) * pixels[unit] <= NARROW - 2 * 16 for number, unit in fixed)
    assert "img { display: block; max-width: 100%" in style
    assert not any("width" in (tag.get("style") or "") for _, tag in Page(html).tags)


@pytest.mark.full
def test_nothing_runs_over_the_edge_of_a_telephone(tmp_path: Path) -> None:
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no Chromium on this machine")
    page = report(
        title="x" * 300,
        facts={"s" * 100: LONG},
        reasons={"not-a-radiograph": 9_999_999, "y" * 100: 1},
        films=[segmented(name, 0.1, 0.2) for name in (LONG, HOSTILE, "x" * 1000)],
        rejects={"not-a-radiograph": [("x" * 1000, "z" * 1000)]},
    )
    frame = f'<iframe style="width: {NARROW}px; height: 800px; border: 0" srcdoc="{markup.escape(page)}"></iframe>'
    measure = """onload = () => { const inner = document.querySelector("iframe").contentDocument;
      const boxes = [inner.documentElement, ...inner.querySelectorAll(".scroll")];
      const over = boxes.map(box => box.scrollWidth - box.clientWidth);
      document.title = inner.documentElement.clientWidth + " " + over; }"""
    (tmp_path / "frame.html").write_text(f"<title></title><body>{frame}<script>{measure}</script></body>", "utf-8")
    dumped = subprocess.run(
        [
            browser,
            "--headless",
            "--no-sandbox",
            f"--user-data-dir={tmp_path / 'profile'}",
            "--window-size=800,900",
            "--dump-dom",
            (tmp_path / "frame.html").as_uri(),
        ],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    ).stdout
    title = re.search(r"<title>(\d+) ([-\d,]+)</title>", dumped)
    assert title is not None
    assert NARROW - 20 <= int(title[1]) <= NARROW  # a scroll bar may take some
    assert [int(over) for over in title[2].split(",")] == [0, 0, 0]

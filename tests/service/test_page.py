"""The page in a real browser: what a radiologist does, and what the browser says about it."""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dicom_films import SECRET, encoded, film
from endpoints import InProcess, served
from PIL import Image
from playwright.sync_api import Browser, Page, expect, sync_playwright

from covseg_ray.radiograph.masks import encode_png
from covseg_ray.radiograph.phantom import make_phantom
from covseg_ray.segmentation.inference.predictor import BatchPredictor
from covseg_ray.segmentation.network.bundle import Bundle
from covseg_ray.service.backend import Settings

CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not on this machine")

FILM_HW = make_phantom(1, 3, 180).image[:, 10:170]
DEEP_HW = make_phantom(1, 4, 160).image.astype(np.uint16) * 16
PIXELS = """() => {
  const canvas = document.getElementById("overlay");
  const data = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
  const seen = [];
  for (let i = 3; i < data.length; i += 4) seen.push(data[i] > 0 ? 1 : 0);
  return [canvas.height, canvas.width, seen];
}"""


@pytest.fixture(scope="module")
def url(predict: InProcess) -> Iterator[str]:
    with served(predict, Settings()) as url:
        yield url


@pytest.fixture(scope="module")
def guarded_url(predict: InProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    keys = tmp_path_factory.mktemp("keys") / "keys"
    keys.write_text("k" * 20)
    with served(predict, Settings(keys_file=str(keys))) as url:
        yield url


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(params=[1200, 390], ids=["desktop", "phone"])
def page(browser: Browser, url: str, request: pytest.FixtureRequest) -> Iterator[Page]:
    context = browser.new_context(viewport={"width": request.param, "height": 844})
    page = context.new_page()
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("requestfailed", lambda failed: said.append(failed.url))
    asked: list[str] = []
    page.on("request", lambda sent: asked.append(sent.url))
    page.goto(url)
    yield page
    assert [line for line in said if "Multiple readback" not in line] == []  # of the test's own reading of the canvas
    assert [each for each in asked if not each.startswith((url, "blob:", "data:"))] == []
    context.close()


def expected(bundle: Bundle, film_HW: np.ndarray) -> np.ndarray:
    side = bundle.spec.input_size
    if film_HW.dtype != np.uint8:
        film_HW = (film_HW.astype(np.float32) - film_HW.min()) * np.float32(255 / (film_HW.max() - film_HW.min()))
    square = np.asarray(Image.fromarray(film_HW).resize((side, side), Image.Resampling.BILINEAR))
    found = BatchPredictor(bundle).predict(square.round().astype(np.uint8)[None])[0] == bundle.spec.infection
    height, width = film_HW.shape
    rows = ((np.arange(height) + 0.5) * side / height).astype(int)
    columns = ((np.arange(width) + 0.5) * side / width).astype(int)
    return found[np.ix_(rows, columns)].astype(np.uint8)


def drop(page: Page, name: str, data: bytes) -> None:
    """What a browser sends when a file is dropped on the page."""
    transfer = page.evaluate_handle(
        """([name, bytes]) => {
            const transfer = new DataTransfer();
            transfer.items.add(new File([new Uint8Array(bytes)], name));
            return transfer;
        }""",
        [name, list(data)],
    )
    for event in ("dragenter", "dragover", "drop"):
        page.dispatch_event("#drop", event, {"dataTransfer": transfer})


def await_done(page: Page, films: int) -> None:
    expect(page.locator("#strip li.done")).to_have_count(films, timeout=60_000)


def overlay(page: Page) -> np.ndarray:
    height, width, seen = page.evaluate(PIXELS)
    return np.array(seen, np.uint8).reshape(height, width)


def shares(page: Page) -> str:
    return page.locator("#numbers").inner_text()


@pytest.mark.parametrize("kind", ["png", "dicom"])
def test_a_dropped_film_is_segmented_as_the_model_does(page: Page, bundle: Bundle, kind: str) -> None:
    pixels_HW = FILM_HW if kind == "png" else DEEP_HW
    data = encode_png(FILM_HW) if kind == "png" else encoded(film(DEEP_HW))
    drop(page, f"film.{kind}", data)
    await_done(page, 1)
    mask_HW = expected(bundle, pixels_HW)
    assert 0.05 < mask_HW.mean() < 0.95
    np.testing.assert_array_equal(overlay(page), mask_HW)
    assert f"{100 * mask_HW.mean():.1f}" in shares(page)
    assert f"{pixels_HW.shape[1]} × {pixels_HW.shape[0]}" in shares(page)
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    assert page.locator("#download-seg").is_enabled() == (kind == "dicom")
    assert SECRET not in page.content()


def test_what_looks_like_no_chest_film_has_a_warning(page: Page) -> None:
    """A film, and after it the same film upside down."""
    warning = page.locator("#numbers .warning")
    drop(page, "film.png", encode_png(FILM_HW))
    await_done(page, 1)
    assert warning.count() == 0
    drop(page, "upside down.png", encode_png(np.ascontiguousarray(FILM_HW[::-1])))
    await_done(page, 2)
    assert warning.inner_text().startswith("This does not look like a frontal chest film")
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    page.locator("#strip li").first.click()
    expect(warning).to_have_count(0)


def test_the_expected_iou_is_shown_with_its_meaning_where_the_model_gives_one(
    page: Page, browser: Browser, bundle: Bundle
) -> None:
    drop(page, "film.png", encode_png(FILM_HW))
    await_done(page, 1)
    assert "Expected IoU" not in shares(page)
    predict = InProcess(
        replace(bundle, spec=bundle.spec.model_copy(update={"expected_iou": ((0.0, 0.37), (1.0, 0.37))}))
    )
    with served(predict, Settings()) as url:
        other = browser.new_page()
        other.goto(url)
        drop(other, "film.png", encode_png(FILM_HW))
        await_done(other, 1)
        term = other.locator("#numbers dt", has_text="Expected IoU")
        assert term.locator("+ dd").inner_text() == "0.37"
        assert (term.get_attribute("title") or "").startswith("Estimate, from the model's own probabilities")
        other.close()


def test_results_can_be_downloaded(page: Page, bundle: Bundle) -> None:
    page.set_input_files("#file", {"name": "my film.png", "mimeType": "image/png", "buffer": encode_png(FILM_HW)})
    await_done(page, 1)
    for button, name in (("#download-mask", "my film-infection.png"), ("#download-overlay", "my film-overlay.png")):
        with page.expect_download() as download:
            page.click(button)
        assert download.value.suggested_filename == name
        taken = np.asarray(Image.open(io.BytesIO(Path(download.value.path()).read_bytes())))
        assert taken.shape[:2] == FILM_HW.shape
        if button == "#download-mask":
            np.testing.assert_array_equal(taken, expected(bundle, FILM_HW))


def test_keyboard_alone(page: Page) -> None:
    files: list[dict[str, Any]] = [
        {"name": f"{index}.png", "mimeType": "image/png", "buffer": encode_png(make_phantom(2, index, 90).image)}
        for index in range(3)
    ]
    for _ in range(10):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.id") == "file":
            break
    with page.expect_file_chooser() as chooser:
        # The browser takes keys by another way than the order to look out for choosers: a question makes it take the
        # order first.
        assert page.evaluate("document.activeElement.id") == "file"
        page.keyboard.press("Space")
    chooser.value.set_files(files)
    await_done(page, 3)
    reached = set()
    for _ in range(40):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.id || document.activeElement.closest('[id]')?.id"))
    assert {"zoom-in", "zoom-out", "zoom-reset", "invert", "show-overlay", "opacity", "download-mask"} <= reached
    page.focus("#opacity")
    before = page.input_value("#opacity")
    page.keyboard.press("ArrowLeft")
    assert page.input_value("#opacity") != before
    page.focus("#invert")
    page.keyboard.press("Enter")
    expect(page.locator("#invert")).to_have_attribute("aria-pressed", "true")
    page.locator("#strip [tabindex='0']").first.focus()
    chosen = page.locator("#strip [aria-selected='true']")
    first = chosen.get_attribute("id") or chosen.inner_text()
    page.keyboard.press("ArrowRight")
    assert (chosen.get_attribute("id") or chosen.inner_text()) != first


def test_a_key_is_requested_and_kept_for_the_session_only(browser: Browser, guarded_url: str) -> None:
    context = browser.new_context()
    page = context.new_page()
    page.goto(guarded_url)
    page.set_input_files("#file", {"name": "a.png", "mimeType": "image/png", "buffer": encode_png(FILM_HW)})
    expect(page.locator("#key-form")).to_be_visible()
    page.fill("#key", "k" * 20)
    page.keyboard.press("Enter")
    await_done(page, 1)
    assert page.evaluate("localStorage.length") == 0
    assert context.cookies() == []
    context.close()


def test_the_description_shows_in_the_browser(browser: Browser, url: str) -> None:
    page = browser.new_page()
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.goto(f"{url}/docs")
    expect(page.locator(".opblock")).to_have_count(4, timeout=30_000)
    assert said == []
    page.close()


def test_a_film_that_cannot_be_read_is_reported(browser: Browser, url: str) -> None:
    page = browser.new_page()
    page.goto(url)
    page.set_input_files("#file", {"name": "cut.png", "mimeType": "image/png", "buffer": encode_png(FILM_HW)[:300]})
    expect(page.locator("#strip li.failed")).to_have_count(1, timeout=30_000)
    assert "before its last chunk" in page.inner_text("body")
    page.close()

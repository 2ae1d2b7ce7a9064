"""Reports as tests read them, and films to put on them."""

from __future__ import annotations

from html.parser import HTMLParser

import numpy as np

from covseg_ray.reports.film_result import FilmResult

VOID = {"meta", "img", "source", "br", "link", "input", "rect"}


class Page(HTMLParser):
    """Tags, texts and pictures of a page; fails where a tag is not closed in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(html)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def make_films(count: int, size: int = 256) -> list[FilmResult]:
    rng = np.random.default_rng(7)
    films = []
    for index in range(count):
        image_HW = rng.integers(0, 256, (size, size), np.uint8)
        truth_HW = np.zeros((size, size), np.uint8)
        truth_HW[size // 4 : size // 2, size // 4 : size // 2] = 1
        predicted_HW = np.roll(truth_HW, index, axis=1)
        iou = float((truth_HW & predicted_HW).sum() / (truth_HW | predicted_HW).sum())
        films.append(FilmResult(f"film-{index:02d}", "COVID-19", image_HW, truth_HW, predicted_HW, iou))
    return films

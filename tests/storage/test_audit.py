from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from covseg_ray.radiograph.phantom import make_phantom
from covseg_ray.storage.audit import audit
from covseg_ray.storage.packing import pack, read_exclusions
from covseg_ray.storage.shards import ShardRow, write_dataset
from covseg_ray.storage.similarity import fingerprint, same_films

SIZE = 128
FILMS = [make_phantom(5, index, SIZE).image for index in range(12)]
EMPTY = np.zeros((SIZE, SIZE), np.uint8)
DRAWN = EMPTY + np.eye(SIZE, dtype=np.uint8)


def altered(film_HW: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The same film once more: another contrast, noise, and two pixels of the rim cut off."""
    noise = np.random.default_rng(1).normal(0, 2, film_HW.shape)
    cut_HW = Image.fromarray(film_HW[2:-2, 2:-2]).resize(film_HW.shape, Image.Resampling.BILINEAR)
    return np.clip(np.asarray(cut_HW) * 0.9 + 10 + noise, 0, 255).astype(np.uint8)


def row(image_id: str, label: str, image_HW: NDArray[np.uint8], mask_HW: NDArray[np.uint8]) -> ShardRow:
    return ShardRow(image_id, image_id.split("/")[0], label, image_HW, mask_HW)


@pytest.fixture
def dataset(tmp_path: Path) -> str:
    uri = str(tmp_path / "dataset")
    rows = [row(f"train/{index}", "COVID-19", film, DRAWN) for index, film in enumerate(FILMS[:8])]
    rows += [
        row("val/near", "COVID-19", altered(FILMS[2]), DRAWN),
        row("val/exact", "COVID-19", FILMS[4], DRAWN),
        row("test/near", "COVID-19", altered(FILMS[8]), DRAWN),
        row("val/8", "COVID-19", FILMS[8], DRAWN),
        row("train/again", "Normal", FILMS[9], EMPTY),
        row("train/first", "Normal", FILMS[9], EMPTY),
        row("val/clean", "COVID-19", FILMS[10], EMPTY),
        row("val/sick", "Normal", FILMS[11], DRAWN),
    ]
    write_dataset(rows, uri, size=SIZE)
    return uri


def test_each_planted_fault_is_found_and_nothing_else(dataset: str) -> None:
    found = audit(dataset)
    assert found.films == 16
    assert {(each.kind, each.image_id) for each in found.findings} == {
        ("near-duplicate", "train/2"),
        ("exact-duplicate", "train/4"),
        ("near-duplicate", "val/8"),
        ("exact-duplicate", "train/first"),
        ("empty-mask", "val/clean"),
        ("unexpected-mask", "val/sick"),
    }
    details = {each.image_id: each.detail for each in found.findings}
    assert details["train/4"] == "of val/exact"
    assert details["train/2"].startswith("of val/near, correlation 0.9")


def test_its_list_is_what_pack_takes(dataset: str, tmp_path: Path) -> None:
    found = audit(dataset)
    (tmp_path / "list").write_text(found.exclusions())
    assert read_exclusions(str(tmp_path / "list")) == {each.image_id for each in found.findings}


def test_a_folder_is_audited_before_it_is_packed(tmp_path: Path) -> None:
    for split, kinds in {"train": [FILMS[0], FILMS[1]], "val": [FILMS[0]]}.items():
        for number, film_HW in enumerate(kinds):
            for kind, pixels in (("images", film_HW), ("masks", DRAWN)):
                (tmp_path / "source" / split / kind).mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(tmp_path / "source" / split / kind / f"{number}.png")
    (tmp_path / "source/val/images/page.png").write_bytes(b"<html>")
    found = audit(str(tmp_path / "source"))
    assert [(each.kind, each.image_id) for each in found.findings] == [("exact-duplicate", "train/0")]
    assert [each.reason for each in found.rejected] == ["not-an-image"]
    exclude = frozenset(each.image_id for each in found.findings)
    info = pack(str(tmp_path / "source"), str(tmp_path / "out"), size=SIZE, exclude=exclude)
    assert info.splits == {"train": {"unlabelled": 1}, "val": {"unlabelled": 1}}
    again = audit(str(tmp_path / "out"))
    assert not again.findings
    assert [each.reason for each in again.rejected] == ["not-an-image"]


def test_pairs_are_those_that_a_plain_double_loop_finds() -> None:
    films = [*FILMS, *(altered(film) for film in FILMS[::3])]
    marks = [fingerprint(film) for film in films]
    # 128 pixels a side: block means of 4 x 4 are the 32 x 32 thumbnail.
    thumbnails = [film.reshape(32, 4, 32, 4).mean(axis=(1, 3)).ravel() for film in films]
    expected = set()
    for first in range(len(marks)):
        for second in range(first + 1, len(marks)):
            distance = int(np.sum(marks[first].bits != marks[second].bits))
            thumbnails = [
                np.asarray(Image.fromarray(films[each]).resize((32, 32), Image.Resampling.BOX))
                for each in (first, second)
            ]
            correlation = np.corrcoef(thumbnails[0].ravel(), thumbnails[1].ravel())[0, 1]
            if distance <= 14 and correlation >= 0.955:
                expected.add((first, second))
    assert expected == {(index * 3, 12 + index) for index in range(4)}
    assert {(pair.first, pair.second) for pair in same_films(marks)} == expected


def test_constant_films_are_equal_only_to_themselves() -> None:
    marks = [fingerprint(EMPTY), fingerprint(EMPTY), fingerprint(EMPTY + 9)]
    assert [(pair.first, pair.second, pair.exact) for pair in same_films(marks)] == [(0, 1, True)]
    assert same_films(marks[:1]) == []

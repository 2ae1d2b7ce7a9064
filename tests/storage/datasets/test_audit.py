from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from packed import write_rows
from PIL import Image

from covseg_ray.errors import UsageError
from covseg_ray.radiograph.phantom import make_phantom
from covseg_ray.storage.datasets.audit import audit
from covseg_ray.storage.datasets.near_duplicates import find_duplicates, fingerprint
from covseg_ray.storage.datasets.pack import pack, read_exclusions
from covseg_ray.storage.datasets.shards import ShardRow

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
    write_rows(rows, uri, size=SIZE)
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
    assert {(pair.first, pair.second) for pair in find_duplicates(marks)} == expected


def test_constant_films_are_equal_only_to_themselves() -> None:
    marks = [fingerprint(EMPTY), fingerprint(EMPTY), fingerprint(EMPTY + 9)]
    assert [(pair.first, pair.second, pair.exact) for pair in find_duplicates(marks)] == [(0, 1, True)]
    assert find_duplicates(marks[:1]) == []


@pytest.mark.parametrize(
    ("side", "near", "exact"),
    [
        ("train", {"train/2", "val/8"}, {"train/4", "train/first"}),
        ("val", {"val/near", "val/8"}, {"val/exact", "train/first"}),
        ("test", {"train/2", "test/near"}, {"train/4", "train/first"}),
    ],
)
def test_the_side_that_is_named_is_the_one_that_goes(dataset: str, side: str, near: set[str], exact: set[str]) -> None:
    found = audit(dataset, side=side)
    by_kind = {
        kind: {each.image_id for each in found.findings if each.kind == kind}
        for kind in ("near-duplicate", "exact-duplicate")
    }
    assert by_kind == {"near-duplicate": near, "exact-duplicate": exact}


def test_a_side_that_is_no_split_is_refused(dataset: str) -> None:
    with pytest.raises(UsageError, match=r"--side vall: .* it has test, train, val"):
        audit(dataset, side="vall")


def test_patients_in_two_splits_are_found_by_whichever_side(tmp_path: Path) -> None:
    """P1 has films in train and val, P2 in train alone, P3 in all three; nothing says whose film train/5 is."""
    patients = {"train/0": "P1", "train/1": "P1", "val/2": "P1", "train/3": "P2", "train/4": "P2", "train/5": None}
    patients |= {"train/6": "P3", "val/7": "P3", "test/8": "P3"}
    rows = [
        ShardRow(name, name.split("/")[0], "COVID-19", film_HW, DRAWN, patient_id=patient)
        for film_HW, (name, patient) in zip(FILMS, patients.items(), strict=False)
    ]
    write_rows(rows, str(tmp_path / "dataset"), size=SIZE)

    def shared(side: str | None) -> dict[str, str]:
        found = audit(str(tmp_path / "dataset"), side=side)
        assert (found.without_patient, {each.kind for each in found.findings}) == (1, {"shared-patient"})
        return {each.image_id: each.detail for each in found.findings}

    same = "the same patient as "
    p3 = {"train/6": f"{same}test/8", "val/7": f"{same}test/8"}
    assert shared(None) == {"train/0": f"{same}val/2", "train/1": f"{same}val/2"} | p3
    assert shared("val") == {"val/2": f"{same}train/0"} | p3
    assert shared("test")["test/8"] == f"{same}val/7"


def test_films_of_an_evaluation_split_of_any_name_are_kept_before_those_of_train(tmp_path: Path) -> None:
    """Both names before and after "train" in the alphabet, and both orders of the image ids."""
    for split in ("north-val", "west"):
        rows = [
            ShardRow("a", split, "COVID-19", altered(FILMS[2]), DRAWN),
            ShardRow("b", "train", "COVID-19", FILMS[2], DRAWN),
            ShardRow("c", "train", "COVID-19", FILMS[3], DRAWN, patient_id="P"),
            ShardRow("d", split, "COVID-19", FILMS[4], DRAWN, patient_id="P"),
            ShardRow("e", "train", "COVID-19", altered(FILMS[5]), DRAWN),
            ShardRow("f", split, "COVID-19", FILMS[5], DRAWN),
        ]
        write_rows(rows, str(tmp_path / split), size=SIZE)
        assert {each.image_id for each in audit(str(tmp_path / split)).findings} == {"b", "c", "e"}


def test_patients_of_a_manifest_are_known_before_it_is_packed(tmp_path: Path) -> None:
    lines = ["image,mask,split,patient_id"]
    for index, (split, patient) in enumerate([("train", "P1"), ("val", "P1"), ("train", "P2")]):
        Image.fromarray(FILMS[index]).save(tmp_path / f"{index}.png")
        lines.append(f"{index}.png,mask.png,{split},{patient}")
    Image.fromarray(DRAWN).save(tmp_path / "mask.png")
    (tmp_path / "films.csv").write_text("\n".join(lines))
    found = audit(str(tmp_path / "films.csv"), side="val")
    assert [(each.kind, each.image_id) for each in found.findings] == [("shared-patient", "1")]
    assert found.without_patient == 0

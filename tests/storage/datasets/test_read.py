from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from packed import write_rows

from covseg_ray.errors import DatasetError, UsageError
from covseg_ray.storage.datasets.read import Subset, exclude_films, list_units, read_unit
from covseg_ray.storage.datasets.shards import ShardRow

SIDE = 16
DRAWN = np.eye(SIDE, dtype=np.uint8)


@pytest.fixture
def dataset(tmp_path: Path) -> str:
    """Forty films, half of them with a lung mask, every fourth with a patient."""
    rows = [
        ShardRow(
            f"film-{index:02d}",
            "val",
            "COVID-19" if index % 2 else "Normal",
            np.full((SIDE, SIDE), index, np.uint8),
            DRAWN,
            lung_HW=None if index % 2 else DRAWN[::-1],
            patient_id=None if index % 4 else f"P{index}",
        )
        for index in range(40)
    ]
    write_rows(rows, str(tmp_path / "dataset"), size=SIDE)
    return str(tmp_path / "dataset")


def ids(dataset: str, units: list) -> list[str]:
    return sorted(image_id for unit in units for image_id in read_unit(dataset, unit).image_ids)


def test_films_on_the_list_are_left_out_and_no_others(dataset: str) -> None:
    gone = frozenset({"film-03", "film-04", "film-39", "train/film-01"})
    units = exclude_films(dataset, list_units(dataset, "val"), gone)
    assert ids(dataset, units) == [f"film-{i:02d}" for i in range(40) if f"film-{i:02d}" not in gone]
    for unit in units:
        films = read_unit(dataset, unit)
        assert films.images_NHW[:, 0, 0].tolist() == [int(image_id[-2:]) for image_id in films.image_ids]


def test_it_goes_together_with_labels(dataset: str) -> None:
    units = exclude_films(dataset, list_units(dataset, "val", ["Normal"]), frozenset({"film-02", "film-03"}))
    assert ids(dataset, units) == [f"film-{i:02d}" for i in range(0, 40, 2) if i != 2]


@pytest.mark.parametrize(
    ("gone", "what"),
    [({"train/1"}, "none of the 40 films"), ({f"film-{i:02d}" for i in range(40)}, "all of the 40 films")],
)
def test_a_list_that_leaves_all_or_nothing_is_refused(dataset: str, gone: set[str], what: str) -> None:
    with pytest.raises(DatasetError, match=what):
        exclude_films(dataset, list_units(dataset, "val"), frozenset(gone))


def test_a_lung_mask_that_is_not_there_is_empty_or_an_error(dataset: str) -> None:
    for unit in list_units(dataset, "val"):
        films = read_unit(dataset, unit, with_lung=True, lung_needed=False)
        for image_id, lung_HW in zip(films.image_ids, films.lungs_NHW, strict=True):
            assert np.array_equal(lung_HW, np.zeros_like(DRAWN) if int(image_id[-2:]) % 2 else DRAWN[::-1])
    with pytest.raises(DatasetError, match="holds no lung of this film"):
        [read_unit(dataset, unit, with_lung=True) for unit in list_units(dataset, "val")]


def test_patients_come_with_their_films(dataset: str) -> None:
    for unit in list_units(dataset, "val"):
        films = read_unit(dataset, unit)
        known = [None if int(each[-2:]) % 4 else f"P{int(each[-2:])}" for each in films.image_ids]
        assert films.patient_ids == known


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"dataset": ""}, "dataset and split: must not be empty"),
        ({"dataset": "films", "split": ""}, "dataset and split: must not be empty"),
        ({"dataset": "films", "labels": []}, r"labels: must be a list of at least one label, not \[\]"),
        ({"dataset": "films", "labels": "Normal"}, "labels: must be a list of at least one label, not 'Normal'"),
    ],
)
def test_a_wrong_value_is_refused_without_a_read(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Subset(**wrong)


def test_units_are_those_of_split_labels_and_exclusions(phantoms: str) -> None:
    assert Subset(phantoms).units() == list_units(phantoms, "val")
    labelled = Subset(phantoms, "train", ("Normal",))
    assert labelled.units() == labelled.all_units() == list_units(phantoms, "train", ["Normal"])
    gone = frozenset(read_unit(phantoms, list_units(phantoms, "val")[0]).image_ids[:1])
    left = Subset(phantoms, exclude=gone)
    assert left.units() == exclude_films(phantoms, list_units(phantoms, "val"), gone)
    assert left.all_units() == list_units(phantoms, "val")


def test_unknown_films_are_an_error_of_the_dataset(phantoms: str) -> None:
    for wrong in (
        Subset(phantoms, "night"),
        Subset(phantoms, labels=["Flu"]),
        Subset(phantoms, exclude=frozenset("x")),
    ):
        with pytest.raises(DatasetError):
            wrong.units()


def test_in_words_it_names_dataset_split_and_labels() -> None:
    assert str(Subset("s3://films", "train", ("Normal", "COVID-19"))) == "s3://films, split train, Normal, COVID-19"
    assert str(Subset("s3://films")) == "s3://films, split val, all labels"

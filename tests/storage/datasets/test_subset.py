"""A subset of a dataset validates itself, and gives the units of its films."""

from __future__ import annotations

from typing import Any

import pytest

from covseg_ray.errors import DatasetError, UsageError
from covseg_ray.storage.datasets.read import exclude_films, list_units, read_unit
from covseg_ray.storage.datasets.subset import Subset


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

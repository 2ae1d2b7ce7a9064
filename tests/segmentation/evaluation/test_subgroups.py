from __future__ import annotations

import numpy as np
import pytest

from covseg_ray.segmentation.evaluation.metrics import summarise
from covseg_ray.segmentation.evaluation.subgroups import divide, summarise_strata

PIXELS = 1000
# By label: the true infected pixels of a thousand, and how many of them were found.
FILMS = [("ill", 49, 40), ("ill", 50, 20), ("ill", 199, 100), ("ill", 200, 10), ("ill", 900, 899), ("well", 0, 0)]
IDS = [f"film-{index}" for index in range(len(FILMS))]
LABELS = [label for label, _, _ in FILMS]
COUNTS = np.array([[found, 3, true - found, PIXELS - 3 - true] for _, true, found in FILMS])


def test_films_stand_where_their_label_and_infected_share_put_them() -> None:
    groups = divide(LABELS, COUNTS)
    where = {
        (group, name): np.flatnonzero(of).tolist() for group, found in groups.items() for name, of in found.items()
    }
    assert where == {
        ("label", "ill"): [0, 1, 2, 3, 4],
        ("label", "well"): [5],
        ("infected_share", "under 5 %"): [0],
        ("infected_share", "5 to 20 %"): [1, 2],
        ("infected_share", "20 % and over"): [3, 4],
    }


def test_a_stratums_metrics_are_those_of_its_films_alone() -> None:
    found = summarise_strata(IDS, LABELS, COUNTS)["infected_share"]["5 to 20 %"]
    assert found.images == 2
    assert found.metrics["iou_image"].value == pytest.approx((20 / 53 + 100 / 202) / 2)
    assert found.metrics == summarise(IDS[1:3], COUNTS[1:3])


def test_a_stratum_without_films_is_left_out() -> None:
    assert list(summarise_strata(IDS[5:], LABELS[5:], COUNTS[5:])["infected_share"]) == []

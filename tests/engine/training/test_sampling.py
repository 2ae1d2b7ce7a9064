"""Shares of groups of films in an epoch, beside counts by hand."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from covseg_ray.engine.training.sampling import Shares, weights_for

UNITS = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=20), min_size=1, max_size=6)


def shares(units: list[list[int]], weights: tuple[float, ...], last_epoch: int = 9) -> Shares:
    return Shares(tuple(np.array(unit, np.uint8) for unit in units), weights, last_epoch)


@given(UNITS, st.tuples(*[st.floats(0.1, 5)] * 3), st.integers(0, 9), st.integers(1, 9))
def test_an_epoch_has_as_many_films_and_each_as_often_as_its_weight(
    units: list[list[int]], weights: tuple[float, ...], seed: int, epoch: int
) -> None:
    drawn = shares(units, weights).drawn(seed, epoch)
    films = sum(map(len, units))
    mean = sum(weights[group] for unit in units for group in unit) / films
    assert sum(map(len, drawn)) == films
    assert len(drawn) == len(units)
    by_group: Counter[int] = Counter()
    for unit, rows in zip(units, drawn, strict=True):
        times = Counter(rows.tolist())
        for row, group in enumerate(unit):
            expected = weights[group] / mean
            assert expected - 1 < times[row] < expected + 1
            by_group[group] += times[row]
        assert rows.tolist() == sorted(rows.tolist())
    for group in range(3):
        expected = weights[group] / mean * sum(unit.count(group) for unit in units)
        assert by_group[group] == pytest.approx(expected, abs=1 + 1e-6)


def test_over_the_epochs_every_film_comes_as_often_as_any_of_its_group() -> None:
    found = shares([[0, 1] * 50], (0.5, 1.5), last_epoch=400)
    times = np.zeros(100)
    for epoch in range(1, 401):
        times += np.bincount(found.drawn(7, epoch)[0], minlength=100)
    assert np.abs(times[0::2] / 400 - 0.5).max() < 0.1
    assert np.abs(times[1::2] / 400 - 1.5).max() < 0.1


def test_the_seed_and_the_epoch_decide_and_after_the_last_one_each_film_comes_once() -> None:
    found = shares([[0, 1, 0, 1, 1]] * 4, (0.4, 1.4), last_epoch=3)

    def drawn(seed: int, epoch: int) -> list[list[int]]:
        return [rows.tolist() for rows in found.drawn(seed, epoch)]

    assert drawn(1, 2) == drawn(1, 2)
    assert len({str(drawn(seed, epoch)) for seed in range(3) for epoch in (1, 2, 3)}) > 3
    assert drawn(1, 4) == [[0, 1, 2, 3, 4]] * 4


def test_weights_give_the_wanted_shares() -> None:
    natural = [600, 300, 100]
    weights = weights_for(natural, [0.3, None, None])
    counts = np.array(natural) * weights
    np.testing.assert_allclose(counts / 1000, [0.3, 0.7 * 0.75, 0.7 * 0.25])
    np.testing.assert_allclose(weights_for([10, 30], [0.5, 0.5]), [2.0, 2 / 3])
    np.testing.assert_allclose(weights_for([10, 30], [None, None]), [1.0, 1.0])

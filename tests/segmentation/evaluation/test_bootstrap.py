from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from covseg_ray.segmentation.evaluation.bootstrap import difference, estimate

NONE = frozenset()


def mean_of(values: np.ndarray) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    return {"score": (values, np.ones_like(values))}


def two_models(films: int = 900, gain: float = 0.01, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Scores that vary much from film to film and little from model to model."""
    rng = np.random.default_rng(seed)
    first = rng.uniform(0, 1, films)
    return first, first + gain + rng.normal(0, 0.05, films)


def test_paired_interval_is_the_normal_one_of_the_films_differences() -> None:
    first, second = two_models()
    found = difference(mean_of(first), mean_of(second), NONE)["score"]
    changes = second - first
    error = changes.std() / np.sqrt(len(changes))
    assert found.value == pytest.approx(changes.mean())
    assert found.high - found.value == pytest.approx(1.96 * error, rel=0.12)
    assert found.value - found.low == pytest.approx(1.96 * error, rel=0.12)
    unpaired = 1.96 * np.sqrt((first.var() + second.var()) / len(first))
    assert found.high - found.value < unpaired / 5


def test_the_share_that_is_not_better_is_the_normal_tail() -> None:
    first, second = two_models(gain=0.0005, seed=4)
    found = difference(mean_of(first), mean_of(second), NONE)["score"]
    changes = second - first
    expected = stats.norm.cdf(-changes.mean() / (changes.std() / np.sqrt(len(changes))))
    assert 0.05 < expected < 0.95
    assert found.not_better == pytest.approx(expected, abs=0.04)
    lower = difference(mean_of(first), mean_of(second), frozenset({"score"}))["score"]
    assert lower.not_better == pytest.approx(1 - expected, abs=0.04)
    assert (lower.value, lower.low, lower.high) == (found.value, found.low, found.high)


def test_pooled_ratios_agree_with_scipys_paired_bootstrap() -> None:
    rng = np.random.default_rng(9)
    under = rng.integers(50, 500, 120).astype(float)
    over = [np.floor(under * rng.uniform(0.4, 0.9, 120)) for _ in range(2)]
    found = difference({"iou": (over[0], under)}, {"iou": (over[1], under)}, NONE)["iou"]

    def change(a: np.ndarray, b: np.ndarray, below: np.ndarray) -> float:
        return b.sum() / below.sum() - a.sum() / below.sum()

    expected = stats.bootstrap(
        (over[0], over[1], under), change, paired=True, vectorized=False, n_resamples=4000, method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval  # fmt: skip
    width = expected.high - expected.low
    assert found.value == pytest.approx(change(over[0], over[1], under))
    assert found.low == pytest.approx(expected.low, abs=0.08 * width)
    assert found.high == pytest.approx(expected.high, abs=0.08 * width)


def test_a_model_does_not_differ_from_itself() -> None:
    first, _ = two_models(30)
    found = difference(mean_of(first), mean_of(first), NONE)["score"]
    assert (found.value, found.low, found.high, found.not_better) == (0, 0, 0, 1)


def test_resamples_without_a_film_to_stand_on_do_not_count() -> None:
    """One film of forty has what is measured: 36 % of the resamples lack it."""
    over, under = np.zeros(40), np.zeros(40)
    over[7], under[7] = 0.25, 1
    found = estimate({"rare": (over, under)})["rare"]
    assert (found.value, found.low, found.high) == (0.25, 0.25, 0.25)
    change = difference({"rare": (over, under)}, {"rare": (over * 2, under)}, NONE)["rare"]
    assert (change.value, change.low, change.high, change.not_better) == (0.25, 0.25, 0.25, 0)


def test_only_metrics_of_both_are_compared_and_only_on_the_same_films() -> None:
    first, second = two_models(20)
    assert set(difference(mean_of(first) | {"lung": (first, first)}, mean_of(second), NONE)) == {"score"}

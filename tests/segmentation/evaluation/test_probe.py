"""The probe's features by hand, and its AUC against the U statistic of SciPy and closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from covseg_ray.segmentation.evaluation.probe import FEWEST_FILMS, FOLDS, probe_auc, summarise_output


def test_the_summary_of_an_output_is_that_of_its_pixels_one_by_one() -> None:
    rng = np.random.default_rng(1)
    probabilities_NHW = (255 * rng.random((5, 8, 6)) ** 4).astype(np.uint8)
    probabilities_NHW[4] = 0
    infection_NHW, lungs_NHW = probabilities_NHW > 100, probabilities_NHW > 20
    for film, found in enumerate(summarise_output(probabilities_NHW, infection_NHW, lungs_NHW)):
        levels = [int(each) for each in probabilities_NHW[film].ravel()]
        shares = [
            sum(levels) / 255 / 48,
            max(levels) / 255,
            sum(each / 255 >= 0.1 for each in levels) / 48,
            sum(each / 255 >= 0.5 for each in levels) / 48,
            sum(each > 100 for each in levels) / 48,
            sum(each > 20 for each in levels) / 48,
        ]
        assert found.tolist() == pytest.approx([math.log(share + 1e-5) for share in shares])


def test_one_feature_gives_the_u_statistic_of_each_fold() -> None:
    """On one feature the discriminant is its sign, and the AUC is Mann and Whitney's U over the number of pairs."""
    rng = np.random.default_rng(2)
    before_N = rng.normal(0, 8, 200).round() / 8  # with equal values
    after_N = before_N + rng.normal(5, 4, 200).round() / 8
    fold_N = np.random.default_rng(0).permutation(200) % FOLDS
    won = sum(stats.mannwhitneyu(after_N[fold_N == f], before_N[fold_N == f]).statistic for f in range(FOLDS))
    won -= np.sum(after_N > before_N) + np.sum(after_N == before_N) / 2  # a film against itself
    found = probe_auc(before_N[:, None], after_N[:, None])
    assert found is not None
    assert found.value == pytest.approx(won / (FOLDS * 40 * 39))
    down = probe_auc(after_N[:, None], before_N[:, None])  # the sign is learned
    assert down is not None
    assert down.value == pytest.approx(found.value)


def test_two_normal_clouds_have_the_auc_of_their_distance() -> None:
    rng = np.random.default_rng(3)
    mixing = np.array([[1.0, 0.8], [0.0, 0.6]])
    before_NF, after_NF = rng.normal(0, 1, (2, 3000, 2)) @ mixing
    shift = np.array([0.5, -0.7])
    found = probe_auc(before_NF, after_NF + shift)
    distance = math.sqrt(shift @ np.linalg.solve(mixing.T @ mixing, shift))
    assert found is not None
    assert found.value == pytest.approx(stats.norm.cdf(distance / math.sqrt(2)), abs=0.02)
    # Hanley & McNeil 1982, for as many of the one kind as of the other.
    first, second = found.value / (2 - found.value), 2 * found.value**2 / (1 + found.value)
    variance = (found.value * (1 - found.value) + 2999 * (first + second - 2 * found.value**2)) / 3000**2
    width = 1.96 * math.sqrt(variance)
    assert found.high - found.low == pytest.approx(2 * width, rel=0.25)


def test_a_small_shift_of_each_film_is_no_larger_in_the_resamples() -> None:
    """A film always scores higher changed than as it is; of two films the one or the other."""
    before_NF = np.random.default_rng(8).normal(0, 1, (60, 1))
    found = probe_auc(before_NF, before_NF + 0.05)
    assert found is not None
    assert found.low < found.value < found.high
    assert (found.low + found.high) / 2 == pytest.approx(found.value, abs=0.01)


def test_outputs_that_are_equal_cannot_be_told_apart() -> None:
    features_NF = np.random.default_rng(4).normal(0, 1, (100, 6))
    features_NF[:, 2] = 7  # no spread
    found = probe_auc(features_NF, features_NF.copy())
    assert found is not None
    assert (found.value, found.low, found.high) == (0.5, 0.5, 0.5)


def test_a_difference_of_chance_is_not_taken_for_one() -> None:
    rng = np.random.default_rng(5)
    before_NF = rng.normal(0, 1, (400, 6))
    found = probe_auc(before_NF, before_NF + rng.normal(0, 0.5, (400, 6)))
    assert found is not None
    assert found.low < 0.5 < found.high


def test_outputs_that_always_differ_have_an_auc_of_one() -> None:
    before_NF = np.random.default_rng(6).random((40, 3))
    found = probe_auc(before_NF, before_NF + np.array([0, 2, 0]))
    assert found is not None
    assert (found.value, found.low, found.high) == (1, 1, 1)


def test_too_few_films_have_no_probe() -> None:
    features_NF = np.random.default_rng(7).random((FEWEST_FILMS - 1, 3))
    assert probe_auc(features_NF, features_NF + 1) is None

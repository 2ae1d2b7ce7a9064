"""Expected IoU beside simulated truths, sums by hand and the definition of isotonic regression."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from covseg_ray.segmentation.evaluation.reliability import MOST_KNOTS, fit, reliability
from covseg_ray.segmentation.inference.expected_iou import SMOOTH, agreement, expected_iou


def test_agreement_is_the_fraction_by_hand() -> None:
    probabilities_NHW = np.array([[[255, 204], [51, 0]], [[0, 0], [0, 51]]], np.uint8)
    found_NHW = np.array([[[True, True], [False, False]], [[False, False], [False, False]]])
    smooth = 4 * SMOOTH
    expected = [(1 + 0.8 + smooth) / (2 + 0.2 + smooth), smooth / (0.2 + smooth)]
    np.testing.assert_allclose(agreement(probabilities_NHW, found_NHW), expected, rtol=1e-12)


def test_agreement_is_the_mean_iou_of_truths_drawn_from_the_probabilities() -> None:
    generator = np.random.default_rng(0)
    probabilities_NHW = generator.integers(0, 256, (1, 64, 64)).astype(np.uint8)
    found_NHW = probabilities_NHW > 127
    truths_THW = generator.random((400, 64, 64)) < probabilities_NHW / 255
    ious = [(found_NHW[0] & truth).sum() / (found_NHW[0] | truth).sum() for truth in truths_THW]
    assert agreement(probabilities_NHW, found_NHW)[0] == pytest.approx(np.mean(ious), abs=0.002)


def test_sure_films_agree_wholly() -> None:
    probabilities_NHW = np.zeros((2, 8, 8), np.uint8)
    probabilities_NHW[0, 2:5] = 255
    np.testing.assert_array_equal(agreement(probabilities_NHW, probabilities_NHW > 0), [1, 1])


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=200))
def test_the_curve_rises_stays_in_bounds_and_keeps_the_mean(pairs: list[tuple[float, float]]) -> None:
    agreement_N, iou_N = np.array(pairs).T
    curve = np.array(fit(agreement_N, iou_N))
    assert len(curve) <= MOST_KNOTS
    assert (np.diff(curve[:, 0]) > 0).all()
    assert (np.diff(curve[:, 1]) >= -1e-9).all()
    assert curve[:, 1].min() >= iou_N.min() - 1e-9
    assert curve[:, 1].max() <= iou_N.max() + 1e-9


def test_a_model_that_is_too_sure_is_brought_down_to_what_it_reaches() -> None:
    generator = np.random.default_rng(1)
    agreement_N = generator.uniform(0.5, 1, 4000)
    iou_N = np.clip(2 * agreement_N - 1.1 + generator.normal(0, 0.05, 4000), 0, 1)
    found_N = expected_iou(fit(agreement_N[:2000], iou_N[:2000]), agreement_N[2000:])
    np.testing.assert_allclose(found_N, np.clip(2 * agreement_N[2000:] - 1.1, 0, 1), atol=0.06)


def test_between_knots_the_curve_is_straight_and_beyond_them_level() -> None:
    curve = ((0.2, 0.1), (0.6, 0.5))
    np.testing.assert_allclose(expected_iou(curve, np.array([0.0, 0.2, 0.3, 0.6, 1.0])), [0.1, 0.1, 0.2, 0.5, 0.5])


def test_reliability_is_the_rank_correlation_and_the_means_of_fifths() -> None:
    expected_N = np.array([0.9, 0.1, 0.5, 0.3, 0.7, 0.2, 0.4, 0.6, 0.8, 1.0])
    iou_N = expected_N**2
    found = reliability(expected_N, iou_N)
    assert found is not None
    assert found.spearman == pytest.approx(1)
    np.testing.assert_allclose(found.expected, [0.15, 0.35, 0.55, 0.75, 0.95])
    np.testing.assert_allclose(found.true, [(0.01 + 0.04) / 2, 0.125, 0.305, 0.565, 0.905])
    ranks = np.argsort(np.argsort(expected_N[::-1])), np.argsort(np.argsort(iou_N))
    turned = reliability(expected_N[::-1], iou_N)
    assert turned is not None
    assert turned.spearman == pytest.approx(np.corrcoef(*ranks)[0, 1])


def test_too_few_or_equal_films_have_no_reliability() -> None:
    assert reliability(np.arange(4) / 4, np.arange(4) / 4) is None
    assert reliability(np.ones(9), np.arange(9) / 9) is None
    assert reliability(np.arange(9) / 9, np.ones(9)) is None

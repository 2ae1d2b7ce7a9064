from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch

from covseg_ray.segmentation.evaluation.calibration import calibration, count_levels
from covseg_ray.segmentation.network.torchvision_operators import ensure_operators


def films(number: int = 6, side: int = 40, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities that promise more than there is, and the truth."""
    rng = np.random.default_rng(seed)
    probabilities = rng.integers(0, 256, (number, side, side)).astype(np.uint8)
    return probabilities, rng.random(probabilities.shape) < (probabilities / 255) ** 2


def test_counts_are_those_of_a_loop_and_add_up() -> None:
    probabilities, truth = films(2, 12)
    expected = np.zeros((2, 256), int)
    for level, infected in zip(probabilities.ravel(), truth.ravel(), strict=True):
        expected[int(infected), level] += 1
    whole = count_levels(probabilities, truth)
    assert whole.dtype == np.int64
    assert np.array_equal(whole, expected)
    assert np.array_equal(
        whole, count_levels(probabilities[:1], truth[:1]) + count_levels(probabilities[1:], truth[1:])
    )


def test_expected_error_agrees_with_torchmetrics() -> None:
    ensure_operators()
    from torchmetrics.classification import BinaryCalibrationError

    probabilities, truth = films()
    probabilities[probabilities % 17 == 0] += 1  # edges of bins: torchmetrics closes them below, Guo et al. above
    probabilities[probabilities == 0] = 254
    found = calibration(count_levels(probabilities, truth))
    expected = BinaryCalibrationError(n_bins=15, norm="l1")(
        torch.from_numpy(probabilities.astype(np.float64) / 255), torch.from_numpy(truth).int()
    )
    assert found.expected_error == pytest.approx(float(expected), abs=1e-6)
    assert found.expected_error > 0.1


def test_bins_are_closed_above_as_guo_et_al_write_them() -> None:
    probabilities, truth = films(3, 30, seed=5)
    bins: dict[int, list[tuple[Fraction, bool]]] = {}
    for level, infected in zip(probabilities.ravel(), truth.ravel(), strict=True):
        share = Fraction(int(level), 255)
        place = next(m for m in range(15) if Fraction(m, 15) < share <= Fraction(m + 1, 15) or (m == 0 and share == 0))
        bins.setdefault(place, []).append((share, bool(infected)))
    found = calibration(count_levels(probabilities, truth))
    gaps = 0.0
    for place, mine in zip(sorted(bins), found.bins, strict=True):
        pixels = len(bins[place])
        mean = float(sum(share for share, _ in bins[place]) / pixels)
        infected = sum(each for _, each in bins[place]) / pixels
        assert mine == pytest.approx((pixels, mean, infected))
        gaps += pixels * abs(infected - mean)
    assert found.pixels == probabilities.size
    assert found.expected_error == pytest.approx(gaps / probabilities.size)


def test_brier_score_is_the_mean_square() -> None:
    probabilities, truth = films(seed=3)
    expected = np.mean((probabilities / 255 - truth) ** 2)
    assert calibration(count_levels(probabilities, truth)).brier == pytest.approx(expected, rel=1e-12)


def test_a_model_that_is_always_right_is_calibrated() -> None:
    _, truth = films()
    found = calibration(count_levels(truth.astype(np.uint8) * 255, truth))
    assert (found.expected_error, found.brier) == (0, 0)
    assert [(each.mean_probability, each.infected_share) for each in found.bins] == [(0, 0), (1, 1)]

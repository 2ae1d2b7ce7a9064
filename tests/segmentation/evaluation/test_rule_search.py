"""Choosing a rule against trying every one by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from covseg_ray.segmentation.evaluation.rule_search import choose, count_rules
from covseg_ray.segmentation.network.decision import remove_small_regions

LEVELS, REGIONS = (60, 128, 200), (0, 4, 30)


@pytest.fixture(scope="module")
def films() -> tuple[np.ndarray, np.ndarray]:
    """Probabilities that are about right; every third film is without infection."""
    rng = np.random.default_rng(7)
    smooth = ndimage.gaussian_filter(rng.normal(size=(13, 32, 32)), (0, 4, 4))
    truth = smooth > np.quantile(smooth, 0.8)
    truth[::3] = False
    seen = truth * 0.5 + ndimage.gaussian_filter(rng.random((13, 32, 32)), (0, 1, 1))
    return (seen.clip(0, 1) * 255).astype(np.uint8), truth


def iou_all(probabilities: np.ndarray, truth: np.ndarray, level: int, region: int) -> np.ndarray:
    found = (probabilities >= level).astype(np.uint8)
    remove_small_regions(found, 1, 0, region)
    both, either = (found & truth).sum((1, 2)), (found | truth).sum((1, 2))
    return np.where(either == 0, 1.0, both / np.maximum(either, 1))


def test_counts_are_those_of_each_rule(films: tuple[np.ndarray, np.ndarray]):
    probabilities, truth = films
    counts = count_rules(probabilities, truth, LEVELS, REGIONS)
    assert counts.shape == (13, 3, 3, 4)
    for place, level in enumerate(LEVELS):
        for other, region in enumerate(REGIONS):
            found = (probabilities >= level).astype(np.uint8)
            remove_small_regions(found, 1, 0, region)
            pairs = [(found == 1) & truth, (found == 1) & ~truth, (found == 0) & truth, (found == 0) & ~truth]
            expected = np.stack([pair.sum((1, 2)) for pair in pairs], 1)
            assert np.array_equal(counts[:, place, other], expected)


def test_the_best_pair_and_what_to_expect_of_it(films: tuple[np.ndarray, np.ndarray]):
    probabilities, truth = films
    found = choose(count_rules(probabilities, truth, LEVELS, REGIONS), LEVELS, REGIONS)
    pairs = [(level, region) for level in LEVELS for region in REGIONS]
    scores = {pair: iou_all(probabilities, truth, *pair) for pair in pairs}
    best = max(pairs, key=lambda pair: scores[pair].mean())
    assert (found.threshold, found.smallest_region) == ((best[0] - 0.5) / 255, best[1])
    assert found.score == pytest.approx(scores[best].mean())
    halves = slice(0, None, 2), slice(1, None, 2)
    others = []
    for chose, scored in (halves, halves[::-1]):
        pair = max(pairs, key=lambda pair: scores[pair][chose].mean())
        others.append(scores[pair][scored])
    assert found.expected == pytest.approx(np.concatenate(others).mean())
    assert found.expected <= found.score

"""The levels that are best for a film, by trying every one; and what each way makes of a film."""

from __future__ import annotations

import numpy as np
import pytest
from decision_rules import best_level, marked, measure, ways
from near_ties import undecided_on_phantoms

from covseg_ray.segmentation.network.decision import Rule


def films(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities of 12 x 12 pixels, and masks drawn by them."""
    chance = np.random.default_rng(seed)
    probability_HW = (255 * chance.beta(0.5, 1.0, (12, 12))).round().astype(np.uint8)
    return probability_HW, chance.random((12, 12)) < probability_HW / 255


@pytest.mark.parametrize("seed", range(5))
def test_no_other_level_has_a_greater_iou(seed: int) -> None:
    probability_HW, truth_HW = films(seed)
    for truth in (truth_HW.astype(float), probability_HW / 255):
        tried = []
        for level in range(1, 256):
            shown_HW = probability_HW >= level
            overlap = truth[shown_HW].sum()
            tried.append(overlap / (shown_HW.sum() + truth.sum() - overlap))
        assert best_level(probability_HW, truth) == 1 + int(np.argmax(tried))


def test_each_way_makes_the_mask_that_it_says() -> None:
    """A square of 5 x 5 pixels at 200 with a hole of 90, and one pixel of 90 elsewhere."""
    probability_HW = np.zeros((9, 9), np.uint8)
    probability_HW[2:7, 2:7] = 200
    probability_HW[4, 4] = probability_HW[0, 0] = 90
    truth_HW = probability_HW > 0
    by_way = ways(Rule(threshold=0.5))
    ruled_HW = marked(probability_HW, 128, 0)
    masks = {way: mask(probability_HW, ruled_HW, truth_HW) for way, mask in by_way.items()}
    assert {way: int(mask_HW.sum()) for way, mask_HW in masks.items() if way != "smoothed"} == {
        "the rule": 24,
        "by film": 24,
        "best by film": 26,
        "grown": 5 * 5 + 4 * 5,
        "shrunk": 4,  # its inner 3 x 3 pixels without those beside the hole
        "filled": 25,
    }
    bell = np.exp(-(np.arange(-4, 5) ** 2) / 2)
    padded_HW = np.pad(probability_HW.astype(float), 4, mode="symmetric")
    for axis in (0, 1):
        padded_HW = np.apply_along_axis(np.convolve, axis, padded_HW, bell / bell.sum(), mode="valid")
    assert np.array_equal(masks["smoothed"], padded_HW.round() >= 128)
    assert not marked(probability_HW, 128, 25).any()


def test_a_film_that_the_rule_leaves_empty_stays_so(phantoms: str) -> None:
    bundle = undecided_on_phantoms(64)
    quiet = measure(bundle.with_rule(Rule(threshold=0.99)), phantoms)
    assert {found["false_alarm"] for found in quiet.values()} == {0.0}
    found = measure(bundle.with_rule(Rule(threshold=0.5)), phantoms)
    assert found["best by film"]["iou_image"] == max(each["iou_image"] for each in found.values())
    assert found["the rule"]["iou_image"] > 0

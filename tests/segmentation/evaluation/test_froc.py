from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from covseg_ray.segmentation.evaluation.froc import THRESHOLDS, free_response, mark

Region = set[tuple[int, int]]


def drawn(*rows: str) -> np.ndarray:
    return np.array([[character == "#" for character in row] for row in rows])


def regions(mask: np.ndarray) -> list[Region]:
    """8-connected regions, by flooding."""
    left: Region = {(int(y), int(x)) for y, x in zip(*np.nonzero(mask), strict=True)}
    found = []
    while left:
        region, edge = set(), [left.pop()]
        while edge:
            y, x = edge.pop()
            region.add((y, x))
            near = {(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)} & left
            left -= near
            edge += near
        found.append(region)
    return found


def by_hand(predicted: np.ndarray, truth: np.ndarray) -> tuple[int, int, int]:
    lesions, marked = regions(truth), regions(predicted)
    pixels = {place for region in marked for place in region}
    infected = {place for region in lesions for place in region}
    return len(lesions), sum(len(r & pixels) / len(r) >= 0.2 for r in lesions), sum(not r & infected for r in marked)


def films(number: int = 5, seed: int = 2) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    smooth = gaussian_filter(rng.normal(size=(number, 48, 48)), (0, 3, 3))
    truth = smooth > 0.12
    truth[0] = False
    noise = gaussian_filter(rng.normal(size=smooth.shape), (0, 2, 2))
    probabilities = np.clip((smooth + noise) * 600 + 60, 0, 255).astype(np.uint8)
    return probabilities, probabilities >= 100, truth


def test_marks_are_those_of_flooding_by_hand() -> None:
    probabilities, predicted, truth = films()
    marks = mark(probabilities, predicted, truth)
    for row, (p, own, t) in zip(marks, zip(probabilities, predicted, truth, strict=True), strict=True):
        expected = [by_hand(mask, t) for mask in (own, *(p >= level for level in THRESHOLDS))]
        assert row.tolist() == [
            expected[0][0],
            *(found for _, found, _ in expected),
            *(false for *_, false in expected),
        ]
    assert marks[0, 0] == 0
    assert marks[1:, 0].min() > 0


def test_a_lesion_is_found_from_a_fifth_of_its_pixels_on_and_corners_connect() -> None:
    truth = drawn("##########.", "..........#", "...........", "#####......")  # 11 pixels around a corner, and 5
    predicted = drawn("##.........", "...........", "...........", "#.........#")  # 2 of 11, 1 of 5, and one elsewhere
    marks = mark(np.zeros((1, *truth.shape), np.uint8), predicted[None], truth[None])
    assert (marks[0, 0], marks[0, 1], marks[0, 2 + len(THRESHOLDS)]) == (2, 1, 1)


def test_a_region_beside_a_lesion_is_false_and_one_that_reaches_in_is_not() -> None:
    truth = drawn("...##", "...##", ".....")
    for predicted, false in ((drawn("..#..", "..#..", "....."), 1), (drawn("..##.", "..#..", "....."), 0)):
        marks = mark(np.zeros((1, *truth.shape), np.uint8), predicted[None], truth[None])
        assert marks[0, 2 + len(THRESHOLDS)] == false


def test_the_curve_is_sums_over_films() -> None:
    probabilities, predicted, truth = films(7)
    truth[3] = False
    found = free_response(mark(probabilities, predicted, truth))
    lesions = sum(len(regions(t)) for t in truth)
    assert (found.films, found.infection_free_films, found.lesions) == (7, 2, lesions)
    for point, level in zip(found.curve, THRESHOLDS, strict=True):
        each = [by_hand(p >= level, t) for p, t in zip(probabilities, truth, strict=True)]
        assert point.threshold == level / 255
        assert point.lesions_found == pytest.approx(sum(f for _, f, _ in each) / lesions)
        assert point.false_regions_per_film == pytest.approx(sum(false for *_, false in each) / 7)
        assert point.false_regions_per_infection_free_film == pytest.approx((each[0][2] + each[3][2]) / 2)
    own = [by_hand(p, t) for p, t in zip(predicted, truth, strict=True)]
    assert found.own["lesions_found"].value == pytest.approx(sum(f for _, f, _ in own) / lesions)
    assert found.own["false_regions_per_film"].value == pytest.approx(sum(false for *_, false in own) / 7)
    for each in found.own.values():
        assert each.low <= each.value <= each.high


def test_without_lesions_or_healthy_films_there_is_nothing_to_say_of_them() -> None:
    probabilities, predicted, truth = films()
    ill = free_response(mark(probabilities[1:], predicted[1:], truth[1:]))
    assert set(ill.own) == {"lesions_found", "false_regions_per_film"}
    assert ill.curve[0].false_regions_per_infection_free_film is None
    well = free_response(mark(probabilities[:1], predicted[:1], truth[:1]))
    assert (well.lesions, well.curve[0].lesions_found) == (0, None)
    assert set(well.own) == {"false_regions_per_film", "false_regions_per_infection_free_film"}


def test_more_lesions_are_found_as_the_threshold_falls() -> None:
    probabilities, predicted, truth = films(20, seed=8)
    shares = [point.lesions_found for point in free_response(mark(probabilities, predicted, truth)).curve]
    assert shares == sorted(shares, reverse=True)
    assert shares[0] > shares[-1]

from __future__ import annotations

import numpy as np

from covseg_ray.reports.film_result import FilmResult, representative


def film(image_id: str, iou: float | None, *, infected: bool = True, marked: int = 1) -> FilmResult:
    image_HW = np.zeros((8, 8), np.uint8)
    truth_HW = np.zeros((8, 8), np.uint8)
    truth_HW[0, 0] = infected
    predicted_HW = np.zeros((8, 8), np.uint8)
    predicted_HW[0, :marked] = 1
    return FilmResult(image_id, "COVID-19" if infected else "Normal", image_HW, truth_HW, predicted_HW, iou)


def chosen(films: list[FilmResult]) -> dict[str, str]:
    return {role: result.image_id for role, result in representative(films)}


def test_best_median_and_worst_are_taken_by_score() -> None:
    films = [film("a", 0.4), film("b", 0.9), film("c", 0.1), film("d", 0.5), film("e", 0.3)]
    assert chosen(films) == {"Best": "b", "Median": "a", "Worst": "c"}


def test_the_median_of_an_even_number_is_the_lower_middle_film() -> None:
    assert chosen([film("a", 0.1), film("b", 0.2), film("c", 0.3), film("d", 0.4)])["Median"] == "b"


def test_a_film_stands_once() -> None:
    assert chosen([film("a", 0.5)]) == {"Best": "a"}
    assert chosen([film("a", 0.5), film("b", 0.6)]) == {"Best": "b", "Median": "a"}


def test_equal_scores_are_ordered_by_id_whatever_the_order_given() -> None:
    films = [film("c", 0.5), film("a", 0.5), film("b", 0.5)]
    assert chosen(films) == chosen(films[::-1]) == {"Best": "c", "Median": "b", "Worst": "a"}


def test_the_largest_false_alarm_is_an_infection_free_film() -> None:
    alarms = [film("n1", None, infected=False, marked=2), film("n2", None, infected=False, marked=5)]
    clean = film("n3", None, infected=False, marked=0)
    assert chosen([film("a", 0.5, marked=8), *alarms, clean]) == {"Best": "a", "Largest false alarm": "n2"}
    assert chosen([clean]) == {}

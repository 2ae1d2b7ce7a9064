"""How far masks of one film agree: a copy is laid back as it was moved, and the figures are those by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from label_agreement import LEAST, agreement, correlation, moved, register

from covseg_ray.radiograph.phantom import make_phantom


def test_a_film_is_laid_over_what_was_cropped_from_it_and_its_mask_too() -> None:
    phantom = make_phantom(0, 1, 128)
    film_HW, lung_HW = (torch.from_numpy(each).float() for each in (phantom.image, phantom.lung))
    crop_23 = torch.tensor([[0.94, 0.02, 0.03], [-0.02, 0.97, -0.02]])
    copy_HW, its_lung_HW = moved(film_HW, crop_23, "bilinear"), moved(lung_HW, crop_23, "nearest")
    found_23, reached = register(copy_HW, film_HW)
    assert float(correlation(copy_HW, film_HW)) < LEAST < reached
    assert found_23.numpy() == pytest.approx(crop_23.numpy(), abs=0.005)
    laid_HW = moved(lung_HW, found_23, "nearest")
    assert (its_lung_HW * laid_HW).sum() / torch.maximum(its_lung_HW, laid_HW).sum() > 0.98


def test_another_film_is_not_taken_for_a_copy() -> None:
    film_HW, other_HW = (torch.from_numpy(make_phantom(0, index, 128).image).float() for index in (1, 2))
    assert register(film_HW, other_HW)[1] < LEAST


def test_correlation_is_pearsons() -> None:
    one, other = np.random.default_rng(0).random((2, 9, 7), dtype=np.float32)
    by_numpy = np.corrcoef(one.ravel(), other.ravel())[0, 1]
    assert float(correlation(torch.from_numpy(one), torch.from_numpy(other))) == pytest.approx(by_numpy, abs=1e-6)


def test_the_figures_are_those_by_hand_and_empty_pairs_are_left_out() -> None:
    pixels_N4 = np.array([[30, 4, 6, 60], [0, 0, 0, 100], [1, 2, 1, 96]])
    found = agreement(pixels_N4, pixels_N4)
    assert found["infected"] == 2
    assert found["iou_image"] == pytest.approx({"value": (0.75 + 0.25) / 2, "low": 0.25, "high": 0.75})
    assert found["median_iou"] == pytest.approx(0.5)
    assert found["under_half"] == 1
    assert found["dice_image"]["value"] == pytest.approx((60 / 70 + 2 / 5) / 2)
    assert found["iou_pooled"]["value"] == pytest.approx(31 / 44)
    assert found["lung_iou"]["value"] == pytest.approx(0.5)

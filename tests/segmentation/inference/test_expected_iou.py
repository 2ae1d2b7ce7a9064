"""Each film's expected IoU with its classes, beside sums over the network's own softmax."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from random_models import random_model
from scipy import ndimage

from covseg_ray.radiograph.phantom import make_phantom
from covseg_ray.segmentation.inference.predictor import BatchPredictor
from covseg_ray.segmentation.network.bundle import Bundle
from covseg_ray.segmentation.network.decision import Decision, Rule
from covseg_ray.segmentation.network.preprocess import Preprocess

SIZE = 64
FILMS_NHW = np.stack([make_phantom(7, index, SIZE).image for index in range(9)])
CURVE = ((0.1, 0.1), (0.6, 0.55), (0.95, 0.9))
RULE = Rule(threshold=0.52, smallest_region=60)


def model(decision: Decision) -> Bundle:
    return random_model(6, ("background", "infection"), SIZE, decision)


def with_curve(bundle: Bundle) -> Bundle:
    return replace(bundle, spec=bundle.spec.model_copy(update={"expected_iou": CURVE}))


def by_hand(bundle: Bundle) -> NDArray[np.float64]:
    with torch.inference_mode():
        p_NHW = bundle.network()(Preprocess()(torch.from_numpy(FILMS_NHW))).softmax(1)[:, 1].numpy().astype(np.float64)
    expected, removed = [], 0
    for p_HW in p_NHW:
        found_HW = p_HW > 0.5 if bundle.spec.decision == "argmax" else p_HW >= RULE.threshold
        if bundle.spec.decision != "argmax":
            regions_HW, count = ndimage.label(found_HW, np.ones((3, 3)))
            small = [label for label in range(1, count + 1) if (regions_HW == label).sum() < RULE.smallest_region]
            removed += len(small)
            found_HW &= ~np.isin(regions_HW, small)
        smooth = SIZE * SIZE / 1000
        agreement = (p_HW[found_HW].sum() + smooth) / (found_HW.sum() + p_HW[~found_HW].sum() + smooth)
        expected.append(np.interp(agreement, *zip(*CURVE, strict=True)))
    assert (removed > 0) == (bundle.spec.decision != "argmax")
    return np.array(expected)


@pytest.mark.parametrize(
    ("decision", "engine"), [("argmax", "torch"), (RULE, "torch"), (RULE, "openvino"), (RULE, "onnx")]
)
def test_it_is_that_of_the_mask_after_the_rule(decision: Decision, engine: str) -> None:
    bundle = model(decision)
    predictor = BatchPredictor(with_curve(bundle), precision="fp32", engine=engine)
    classes_NHW, expected = predictor.predict_with_expected_iou(FILMS_NHW)
    by_hand_N = by_hand(bundle)
    np.testing.assert_allclose(expected, by_hand_N, atol=0.0005)  # probabilities are rounded to 255ths
    assert np.ptp(by_hand_N) > 0.01
    np.testing.assert_array_equal(classes_NHW, predictor.predict(FILMS_NHW))


def test_it_depends_on_neither_batch_nor_neighbours() -> None:
    predictor = BatchPredictor(with_curve(model(RULE)), precision="fp32", chunk=4)
    classes_NHW, expected = predictor.predict_with_expected_iou(FILMS_NHW)
    assert len(set(expected)) == len(FILMS_NHW)
    for index in range(len(FILMS_NHW)):
        alone_1HW, (value,) = predictor.predict_with_expected_iou(FILMS_NHW[index : index + 1])
        np.testing.assert_array_equal(alone_1HW[0], classes_NHW[index])
        assert value == expected[index]
    assert list(predictor.predict_with_expected_iou(FILMS_NHW[::-1])[1]) == list(expected)[::-1]
    nothing_0HW, none = predictor.predict_with_expected_iou(FILMS_NHW[:0])
    assert (nothing_0HW.shape, list(none)) == ((0, SIZE, SIZE), [])


@pytest.mark.parametrize("curve", [False, True])
def test_probabilities_are_copied_for_a_curve_alone(curve: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = model(RULE)
    predictor = BatchPredictor(with_curve(bundle) if curve else bundle, precision="fp32", chunk=4)
    asked, start = [], predictor._start
    monkeypatch.setattr(predictor, "_start", lambda films, outputs: asked.append(outputs) or start(films, outputs))
    classes_NHW, expected = predictor.predict_with_expected_iou(FILMS_NHW)
    assert asked == [2 if curve else 1] * 3  # once a chunk
    assert [value is None for value in expected] == [not curve] * len(FILMS_NHW)
    np.testing.assert_array_equal(classes_NHW, predictor.predict(FILMS_NHW))

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from covseg_ray.errors import DatasetError
from covseg_ray.radiograph.severity import severity
from covseg_ray.segmentation.estimate import Estimate
from covseg_ray.segmentation.evaluation.metrics import count, count_lung, point_values, summarise
from covseg_ray.segmentation.network.torchvision_operators import ensure_operators


def _random_masks(films: int, seed: int = 0, size: int = 24) -> tuple[list[str], np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    truth = rng.random((films, size, size)) < rng.random((films, 1, 1)) * 0.6
    predicted = truth ^ (rng.random(truth.shape) < 0.1)
    truth[::3] = False
    predicted[::6] = False
    return [f"film-{index:04d}" for index in range(films)], predicted, truth


def test_count_of_a_drawn_example():
    predicted = np.array([[[1, 1, 0], [0, 1, 0]]], dtype=bool)
    truth = np.array([[[1, 0, 1], [0, 1, 1]]], dtype=bool)
    counts = count(predicted, truth)
    assert counts.dtype == np.int64
    assert counts.tolist() == [[2, 1, 2, 1]]


def test_count_refuses_two_shapes():
    with pytest.raises(ValueError, match="differ in shape"):
        count(np.zeros((1, 2, 2), bool), np.zeros((1, 2, 3), bool))


def test_pooled_metrics_agree_with_torchmetrics():
    ensure_operators()
    from torchmetrics.classification import BinaryF1Score, BinaryJaccardIndex

    ids, predicted, truth = _random_masks(20)
    values = point_values(ids, count(predicted, truth))
    predicted_t, truth_t = torch.from_numpy(predicted).int(), torch.from_numpy(truth).int()
    assert values["iou_pooled"] == pytest.approx(float(BinaryJaccardIndex()(predicted_t, truth_t)), abs=1e-6)
    assert values["dice_pooled"] == pytest.approx(float(BinaryF1Score()(predicted_t, truth_t)), abs=1e-6)


def test_per_image_metrics_agree_with_plain_loops_over_pixels():
    ids, predicted, truth = _random_masks(19, seed=4)
    ious, dices, ill_ious, ill_dices, alarms = [], [], [], [], []
    for p, t in zip(predicted, truth, strict=True):
        union, both = (p | t).sum(), (p & t).sum()
        ious.append(both / union if union else 1.0)
        dices.append(2 * both / (p.sum() + t.sum()) if union else 1.0)
        if t.any():
            ill_ious.append(ious[-1])
            ill_dices.append(dices[-1])
        else:
            alarms.append(bool(p.any()))
    values = point_values(ids, count(predicted, truth))
    assert values["iou_all"] == pytest.approx(np.mean(ious), rel=1e-12)
    assert values["dice_all"] == pytest.approx(np.mean(dices), rel=1e-12)
    assert values["iou_image"] == pytest.approx(np.mean(ill_ious), rel=1e-12)
    assert values["dice_image"] == pytest.approx(np.mean(ill_dices), rel=1e-12)
    assert values["false_alarm"] == pytest.approx(np.mean(alarms), rel=1e-12)
    assert 0 < values["false_alarm"] < 1


def test_two_class_iou_is_the_keras_score_of_batches_of_32():
    """IOUScore of segmentation_models on one-hot masks, written out batch by batch."""
    ids, predicted, truth = _random_masks(75, seed=1, size=12)
    scores = []
    for start in (0, 32, 64):
        p, t = predicted[start : start + 32], truth[start : start + 32]
        classes = []
        for p_c, t_c in ((~p, ~t), (p, t)):
            intersection, union = (p_c & t_c).sum(), (p_c | t_c).sum()
            classes.append((intersection + 1e-5) / (union + 1e-5))
        scores.append(np.mean(classes))
    assert point_values(ids, count(predicted, truth))["iou_two_class"] == pytest.approx(np.mean(scores), rel=1e-12)


def test_nothing_depends_on_the_order_in_which_images_arrive():
    ids, predicted, truth = _random_masks(70)
    counts = count(predicted, truth)
    order = np.random.default_rng(2).permutation(70)
    assert summarise([ids[i] for i in order], counts[order]) == summarise(ids, counts)


def test_an_image_counted_twice_is_an_error():
    with pytest.raises(DatasetError, match="'a' was counted twice"):
        point_values(["a", "b", "a"], np.ones((3, 4), np.int64))


def test_metrics_without_images_are_left_out():
    only_ill = np.array([[5, 0, 5, 90]])
    assert "false_alarm" not in point_values(["a"], only_ill)
    healthy = np.array([[0, 0, 0, 100], [0, 0, 0, 100]])
    assert point_values(["a", "b"], healthy) == {
        "iou_all": 1.0,
        "dice_all": 1.0,
        "false_alarm": 0.0,
        "iou_two_class": 1.0,
    }
    assert summarise([], np.zeros((0, 4), np.int64)) == {}


def test_interval_of_a_mean_is_the_normal_one():
    """iou_all of many images is a mean of independent values: 1.96 s / sqrt(n) to each side."""
    rng = np.random.default_rng(7)
    tp = rng.integers(0, 101, 900)
    counts = np.stack([tp, np.zeros_like(tp), 100 - tp, np.full_like(tp, 50)], axis=1)
    estimate = summarise([f"{i:04d}" for i in range(900)], counts)["iou_all"]
    half = 1.96 * (tp / 100).std() / math.sqrt(900)
    assert estimate.value == pytest.approx((tp / 100).mean())
    assert estimate.high - estimate.value == pytest.approx(half, rel=0.12)
    assert estimate.value - estimate.low == pytest.approx(half, rel=0.12)


def test_two_class_interval_resamples_batches():
    """Two batches scoring 1 and about 0.5: a resample holds both, or one of them twice."""
    perfect, blind = np.tile([50, 0, 0, 50], (32, 1)), np.tile([0, 0, 0, 100], (32, 1))
    blind[0] = [0, 0, 1, 99]
    estimate = summarise([f"{i:02d}" for i in range(64)], np.concatenate([perfect, blind]))["iou_two_class"]
    assert estimate.value == pytest.approx(0.75, abs=1e-3)
    assert estimate.low == pytest.approx(0.5, abs=1e-3)
    assert estimate.high == pytest.approx(1.0, abs=1e-3)


def test_the_same_counts_have_the_same_interval():
    ids, predicted, truth = _random_masks(40)
    assert summarise(ids, count(predicted, truth)) == summarise(ids, count(predicted, truth))


def test_every_value_lies_in_its_interval():
    ids, predicted, truth = _random_masks(60)
    estimates = summarise(ids, count(predicted, truth))
    assert set(estimates) == set(point_values(ids, count(predicted, truth)))
    for estimate in estimates.values():
        assert isinstance(estimate, Estimate)
        assert estimate.low <= estimate.value <= estimate.high


def _random_lungs(films: int, seed: int = 0, size: int = 24) -> tuple[list[str], dict[str, np.ndarray]]:
    """Infection inside lung, true and predicted; every fourth film lacks a lung mask."""
    ids, predicted, truth = _random_masks(films, seed, size)
    rng = np.random.default_rng(seed + 100)
    lung = truth | (rng.random(truth.shape) < 0.3)
    predicted_lung = predicted | (lung ^ (rng.random(truth.shape) < 0.1))
    lung[::4] = False
    predicted_lung[5] = predicted[5] = False
    return ids, {"truth": truth, "predicted": predicted, "lung": lung, "predicted_lung": predicted_lung}


def test_lung_metrics_agree_with_plain_loops_and_the_severity_of_a_film():
    ids, masks = _random_lungs(22)
    ious, errors, both, either = [], [], 0, 0
    for t, p, lung, p_lung in zip(*(masks[k] for k in ("truth", "predicted", "lung", "predicted_lung")), strict=True):
        if not lung.any():
            continue
        ious.append((p_lung & lung).sum() / (p_lung | lung).sum())
        both, either = both + (p_lung & lung).sum(), either + (p_lung | lung).sum()
        true = severity(t.astype(np.uint8), lung.astype(np.uint8)).whole
        errors.append(abs((severity(p.astype(np.uint8), p_lung.astype(np.uint8)).whole or 0) - true))
    assert len(ious) == 16
    values = point_values(
        ids,
        count(masks["predicted"], masks["truth"]),
        count_lung(masks["predicted_lung"], masks["lung"], masks["truth"]),
    )
    assert values["lung_iou"] == pytest.approx(np.mean(ious), rel=1e-12)
    assert values["lung_iou_pooled"] == pytest.approx(both / either, rel=1e-12)
    assert values["severity_error"] == pytest.approx(np.mean(errors), rel=1e-12)
    assert 0 < values["severity_error"] < 1


def test_pooled_lung_iou_agrees_with_torchmetrics():
    ensure_operators()
    from torchmetrics.classification import BinaryJaccardIndex

    ids, masks = _random_lungs(12, seed=2)
    known = masks["lung"].any(axis=(1, 2))
    counts = count_lung(masks["predicted_lung"], masks["lung"], masks["truth"])
    found = point_values(ids, count(masks["predicted"], masks["truth"]), counts)["lung_iou_pooled"]
    pair = [torch.from_numpy(masks[name][known]).int() for name in ("predicted_lung", "lung")]
    assert found == pytest.approx(float(BinaryJaccardIndex()(*pair)), abs=1e-6)


def test_lungs_change_no_other_metric_and_without_any_mask_there_are_none():
    ids, masks = _random_lungs(20)
    counts = count(masks["predicted"], masks["truth"])
    lungs = count_lung(masks["predicted_lung"], masks["lung"], masks["truth"])
    alone, with_lungs = summarise(ids, counts), summarise(ids, counts, lungs)
    assert {name: with_lungs[name] for name in alone} == alone
    assert set(with_lungs) - set(alone) == {"lung_iou", "lung_iou_pooled", "severity_error"}
    nowhere = count_lung(masks["predicted_lung"], np.zeros_like(masks["lung"]), masks["truth"])
    assert summarise(ids, counts, nowhere) == alone

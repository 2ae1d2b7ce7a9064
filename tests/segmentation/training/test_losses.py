from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
import torch

from covseg_ray.config.train import Loss
from covseg_ray.segmentation.training.losses import build_loss, film_jaccard, soft_film_jaccard, soft_loss
from covseg_ray.segmentation.training.targets import UNKNOWN


def _case(classes: int = 2) -> tuple[torch.Tensor, torch.Tensor, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(classes)
    logits = rng.normal(size=(3, classes, 5, 6)) * 2
    targets = rng.integers(0, classes, (3, 5, 6))
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    onehot = np.stack([targets == c for c in range(classes)], axis=1).astype(float)
    return torch.tensor(logits, dtype=torch.float32), torch.from_numpy(targets), probabilities, onehot


def _jaccard(p: np.ndarray, y: np.ndarray) -> float:
    both = (p * y).sum(axis=(0, 2, 3))
    return float(np.mean(1 - (both + 1e-5) / (p.sum(axis=(0, 2, 3)) + y.sum(axis=(0, 2, 3)) - both + 1e-5)))


@pytest.mark.parametrize("classes", [2, 3])
def test_focal_jaccard_is_the_keras_formula(classes: int):
    logits, targets, p, y = _case(classes)
    focal = np.mean(-y * 0.25 * (1 - p) ** 2 * np.log(p))
    assert build_loss("focal+jaccard")(logits, targets).item() == pytest.approx(focal + _jaccard(p, y), rel=1e-5)


def test_cross_entropy_jaccard():
    logits, targets, p, y = _case(3)
    cross_entropy = -np.mean(np.log((p * y).sum(axis=1)))
    expected = cross_entropy + _jaccard(p, y)
    assert build_loss("cross-entropy+jaccard")(logits, targets).item() == pytest.approx(expected, rel=1e-5)


def test_cross_entropy_film_jaccard():
    logits, targets, p, y = _case(3)
    expected = -np.mean(np.log((p * y).sum(axis=1)))
    smooth, films = 30 / 1000, []
    for film in range(3):
        for c in (1, 2):
            both = (p[film, c] * y[film, c]).sum()
            either = p[film, c].sum() + y[film, c].sum() - both
            films.append(1 - (both + smooth) / (either + smooth))
    loss = build_loss("cross-entropy+film-jaccard")(logits, targets)
    assert loss.item() == pytest.approx(expected + np.mean(films), rel=1e-5)


def test_what_is_found_on_a_film_without_infection_costs_something():
    """P / (P + s) for each film and class that is not there: here P is a third of 64 pixels and s 0.064."""
    targets = torch.zeros(2, 8, 8, dtype=torch.int64)
    logits = torch.zeros(2, 3, 8, 8, requires_grad=True)
    loss = film_jaccard(logits, targets)
    loss.backward()
    found, smooth = 64 / 3, 0.064
    assert loss.item() == pytest.approx(found / (found + smooth), rel=1e-5)
    by_probability = smooth / (found + smooth) ** 2 / 4  # of 2 films and 2 classes
    by_logit = by_probability * (1 / 3 * 2 / 3 - 1 / 3 * 1 / 3)  # its own probability, and the other class's
    assert logits.grad is not None
    np.testing.assert_allclose(logits.grad[:, 2].numpy(), by_logit, rtol=1e-4)


def test_dice():
    logits, targets, p, y = _case(2)
    axes = (0, 2, 3)
    expected = np.mean(1 - (2 * (p * y).sum(axes) + 1e-5) / (p.sum(axes) + y.sum(axes) + 1e-5))
    assert build_loss("dice")(logits, targets).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", get_args(Loss))
def test_right_is_near_zero_and_the_gradient_points_there(name: str):
    _, targets, _, y = _case(2)
    sure = torch.from_numpy(y).float() * 40
    assert build_loss(name)(sure, targets).item() == pytest.approx(0, abs=1e-4)
    logits = torch.zeros(y.shape, requires_grad=True)
    build_loss(name)(logits, targets).backward()
    assert logits.grad is not None
    assert (np.sign(-logits.grad.numpy()) == 2 * y - 1).all()


def test_bf16_logits_are_summed_in_float32():
    logits, targets, _, _ = _case(2)
    low = logits.bfloat16()
    loss = build_loss("focal+jaccard")(low, targets)
    assert loss.dtype == torch.float32
    assert loss.item() == build_loss("focal+jaccard")(low.float(), targets).item()


def test_certain_and_wrong_stays_finite():
    _, targets, _, y = _case(2)
    logits = torch.from_numpy(1 - y).float() * 1e4
    logits.requires_grad_()
    loss = build_loss("focal+jaccard")(logits, targets)
    loss.backward()
    assert torch.isfinite(loss)
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize("name", get_args(Loss))
def test_a_pixel_that_is_background_or_lung_is_neither_and_not_infection(name: str):
    """As if the network had no lung class there: background has the probability of both."""
    logits, targets, p, _ = _case(3)
    unknown = (targets < 2) & (torch.rand(targets.shape, generator=torch.Generator().manual_seed(0)) < 0.5)
    unknown[0] = targets[0] < 2  # one film wholly
    merged = p.copy()
    merged[:, 0], merged[:, 1] = p[:, 0] + p[:, 1], 1e-12
    chosen = np.where(unknown.numpy()[:, None], merged, p)
    expected = build_loss(name)(torch.tensor(np.log(chosen), dtype=torch.float32), targets.masked_fill(unknown, 0))
    found = build_loss(name)(logits, targets.masked_fill(unknown, UNKNOWN))
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("name", get_args(Loss))
def test_an_unknown_pixel_does_not_tell_background_from_lung(name: str):
    logits, targets, p, _ = _case(3)
    logits.requires_grad_()
    build_loss(name)(logits, torch.full_like(targets, UNKNOWN)).backward()
    assert logits.grad is not None
    gradient = logits.grad.numpy()
    np.testing.assert_allclose(gradient[:, 0] * p[:, 1], gradient[:, 1] * p[:, 0], atol=1e-7)  # in their proportion
    assert (gradient[:, 2] > 0).all()  # less infection
    assert np.isfinite(gradient).all()


def _soft_case() -> tuple[torch.Tensor, torch.Tensor, np.ndarray, np.ndarray]:
    """Logits, a teacher's maps in 255ths, the probabilities of both."""
    logits, _, p, _ = _case(3)
    maps = np.random.default_rng(1).dirichlet((0.5, 0.5, 0.5), (3, 5, 6)).transpose(0, 3, 1, 2)[:, 1:]
    maps = np.floor(maps * 255).astype(np.uint8)
    y = np.concatenate([255 - maps.sum(1, keepdims=True, dtype=int), maps], axis=1) / 255
    return logits, torch.from_numpy(maps), p, y


def test_soft_loss_is_cross_entropy_and_the_jaccard_metric_loss():
    logits, maps, p, y = _soft_case()
    metric = []
    for film in range(3):
        for c in (1, 2):
            both, apart = p[film, c].sum() + y[film, c].sum() + 2 * 30 / 1000, np.abs(p[film, c] - y[film, c]).sum()
            metric.append(1 - (both - apart) / (both + apart))
    expected = -(y * np.log(p)).sum(1).mean() + np.mean(metric)
    assert soft_loss(logits, maps).item() == pytest.approx(expected, rel=1e-5)


def test_on_masks_the_soft_losses_are_the_hard_ones():
    logits, targets, _, y = _case(3)
    jaccard = film_jaccard(logits, targets)
    assert soft_film_jaccard(logits, torch.from_numpy(y)).item() == pytest.approx(jaccard.item(), rel=1e-5)
    hard = build_loss("cross-entropy+film-jaccard")(logits, targets)
    maps = torch.from_numpy(y[:, 1:] * 255).to(torch.uint8)
    assert soft_loss(logits, maps).item() == pytest.approx(hard.item(), rel=1e-5)


def test_only_the_jaccard_metric_loss_is_least_at_the_teachers_probabilities():
    """The ordinary soft Jaccard of equal p = y is 1 - sum y^2 / (2 sum y - sum y^2), and falls as p grows to 1."""
    _, _, _, y = _soft_case()
    y = np.clip(y, 1e-3, None) / np.clip(y, 1e-3, None).sum(1, keepdims=True)
    logits, soft = torch.from_numpy(np.log(y)).float(), torch.from_numpy(y).float()
    assert soft_film_jaccard(logits, soft).item() == pytest.approx(0, abs=1e-6)
    both, sums = (y[:, 1:] ** 2).sum((2, 3)), 2 * y[:, 1:].sum((2, 3))
    assert np.mean(1 - both / (sums - both)) > 0.1
    noise = torch.randn(logits.shape, generator=torch.Generator().manual_seed(0))
    for size in (-0.3, -0.01, 0.01, 0.3):
        assert soft_film_jaccard(logits + size * noise, soft).item() > 1e-4


def test_maps_whose_rounding_exceeds_certainty_stay_probabilities():
    maps = torch.full((1, 2, 4, 4), 128, dtype=torch.uint8)  # 256 of 255
    logits = torch.log(torch.tensor([1e-6, 0.5, 0.5])).reshape(1, 3, 1, 1).expand(1, 3, 4, 4).requires_grad_()
    loss = soft_loss(logits, maps)
    assert loss.item() == pytest.approx(np.log(2), abs=0.02)


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_where_lungs_are_not_known_they_are_learned_from_the_teachers(share: float):
    """Without teachers the odds of lung against background stay as they are."""
    lungs = torch.randint(0, 256, (2, 1, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))
    maps, targets = torch.cat([lungs, torch.zeros_like(lungs)], dim=1), torch.full((2, 4, 4), UNKNOWN)
    logits, hard = torch.zeros(2, 3, 4, 4, requires_grad=True), build_loss("cross-entropy+film-jaccard")
    optimizer = torch.optim.Adam([logits], lr=0.1)
    for _ in range(200):
        optimizer.zero_grad()
        ((1 - share) * hard(logits, targets) + share * soft_loss(logits, maps)).backward()
        optimizer.step()
    p_NCHW = logits.detach().softmax(1)
    assert p_NCHW[:, 2].max() < 0.02
    learned = lungs[:, 0] / 255 if share else torch.full((2, 4, 4), 0.5)
    torch.testing.assert_close(p_NCHW[:, 1] / (p_NCHW[:, 0] + p_NCHW[:, 1]), learned, atol=0.03, rtol=0)

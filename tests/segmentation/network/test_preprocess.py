from __future__ import annotations

import numpy as np
import pytest
import torch

from covseg_ray.segmentation.network.preprocess import Preprocess


def test_against_numpy_by_hand():
    images = np.random.default_rng(0).integers(20, 200, (3, 8, 10), dtype=np.uint8)
    low, high = images.min(axis=(1, 2), keepdims=True), images.max(axis=(1, 2), keepdims=True)
    unit = (images.astype(np.float64) - low) / (high.astype(np.float64) - low)
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    expected = (unit[:, None] - mean[None, :, None, None]) / std[None, :, None, None]
    output = Preprocess()(torch.from_numpy(images))
    assert output.dtype == torch.float32
    assert output.shape == (3, 3, 8, 10)
    assert output.is_contiguous(memory_format=torch.channels_last)
    np.testing.assert_allclose(output.numpy(), expected, atol=2e-6)


@pytest.mark.parametrize("value", [0, 7, 255])
def test_a_constant_film_is_finite_and_zero_before_normalisation(value: int):
    output = Preprocess(mean=(0.5, 0.25, 0.0), std=(1.0, 0.5, 1.0))(torch.full((1, 4, 4), value, dtype=torch.uint8))
    np.testing.assert_allclose(output[0, :, 0, 0].numpy(), [-0.5, -0.5, 0.0])


def test_each_film_is_scaled_by_itself():
    images = torch.randint(0, 256, (4, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    together, alone = Preprocess()(images), [Preprocess()(image[None])[0] for image in images]
    assert torch.equal(together, torch.stack(alone))


def test_brightness_and_contrast_do_not_matter():
    film = torch.arange(64, dtype=torch.uint8).reshape(1, 8, 8)
    torch.testing.assert_close(Preprocess()(film), Preprocess()(film * 2 + 50))


def test_holds_nothing_that_a_checkpoint_would_save():
    assert Preprocess().state_dict() == {}

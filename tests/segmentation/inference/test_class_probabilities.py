from __future__ import annotations

import numpy as np
import pytest
import torch
from random_models import WITH_LUNGS, random_model

from covseg_ray.radiograph.phantom import make_phantom
from covseg_ray.segmentation.inference.class_probabilities import MeanProbabilities
from covseg_ray.segmentation.network.bundle import Bundle, Normalisation


def by_hand(bundle: Bundle, images_NHW: np.ndarray) -> np.ndarray:
    """Probabilities of one model on the films as they are, float64 ``[N, C, H, W]``."""
    low, high = (f(images_NHW, axis=(1, 2), keepdims=True).astype(float) for f in (np.min, np.max))
    mean, std = (np.array(each) for each in (bundle.spec.normalisation.mean, bundle.spec.normalisation.std))
    films_NHWC = ((images_NHW - low) / (high - low))[..., None] - mean
    with torch.inference_mode():
        scores = bundle.network()(torch.from_numpy((films_NHWC / std).transpose(0, 3, 1, 2).astype(np.float32)))
    exponents = np.exp(scores.double().numpy())
    return exponents / exponents.sum(1, keepdims=True)


@pytest.mark.parametrize("classes", [("background", "infection"), WITH_LUNGS])
def test_they_are_the_mean_over_models_and_mirror_images(classes: tuple[str, ...]) -> None:
    first, second = random_model(1, classes), random_model(2, classes)
    second = Bundle(second.spec.model_copy(update={"normalisation": Normalisation(mean=(0.4, 0.5, 0.6))}), second.state)
    images_NHW = np.stack([make_phantom(9, index, 64).image for index in range(3)])
    seen = [by_hand(model, images_NHW) for model in (first, second)]
    seen += [by_hand(model, images_NHW[:, :, ::-1])[..., ::-1] for model in (first, second)]
    expected = 255 * np.mean(seen, axis=0)[:, 1:]
    found = MeanProbabilities([first, second], "cpu").predict(images_NHW)
    assert (found.dtype, found.shape) == (np.uint8, (3, len(classes) - 1, 64, 64))
    assert np.abs(found - expected).max() < 0.51  # rounded, once
    assert np.ptp(expected) > 50
    assert np.abs(expected - 255 * seen[0][:, 1:]).max() > 10

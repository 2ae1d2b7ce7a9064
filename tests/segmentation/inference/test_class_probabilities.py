from __future__ import annotations

import numpy as np
import pytest
from random_models import WITH_LUNGS, random_model
from teachers import mean_maps, probabilities

from covseg_ray.radiograph.phantom import make_phantom
from covseg_ray.segmentation.inference.class_probabilities import MeanProbabilities
from covseg_ray.segmentation.network.bundle import Bundle, Normalisation


@pytest.mark.parametrize("classes", [("background", "infection"), WITH_LUNGS])
def test_they_are_the_mean_over_models_and_mirror_images(classes: tuple[str, ...]) -> None:
    first, second = random_model(1, classes), random_model(2, classes)
    second = Bundle(second.spec.model_copy(update={"normalisation": Normalisation(mean=(0.4, 0.5, 0.6))}), second.state)
    images_NHW = np.stack([make_phantom(9, index, 64).image for index in range(3)])
    expected = mean_maps([first, second], images_NHW)
    found = MeanProbabilities([first, second], "cpu").predict(images_NHW)
    assert (found.dtype, found.shape) == (np.uint8, (3, len(classes) - 1, 64, 64))
    assert np.abs(found - expected).max() < 0.51  # rounded, once
    assert np.ptp(expected) > 50
    assert np.abs(expected - 255 * probabilities(first, images_NHW)[:, 1:]).max() > 10

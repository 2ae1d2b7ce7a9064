"""What teachers' maps are, computed by hand."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from covseg_ray.segmentation.network.bundle import Bundle


def probabilities(bundle: Bundle, images_NHW: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Of one model on the films as they are, float64 ``[N, C, H, W]``."""
    low, high = (f(images_NHW, axis=(1, 2), keepdims=True).astype(float) for f in (np.min, np.max))
    mean, std = (np.array(each) for each in (bundle.spec.normalisation.mean, bundle.spec.normalisation.std))
    films_NHWC = (((images_NHW - low) / (high - low))[..., None] - mean) / std
    with torch.inference_mode():
        scores = bundle.network()(torch.from_numpy(films_NHWC.transpose(0, 3, 1, 2).astype(np.float32)))
    exponents_NCHW: NDArray[np.float64] = np.exp(scores.double().numpy())
    return exponents_NCHW / exponents_NCHW.sum(1, keepdims=True)


def mean_maps(bundles: Sequence[Bundle], images_NHW: NDArray[np.uint8]) -> NDArray[np.float64]:
    """255 times the mean over models and mirror images, of all classes but background, before rounding."""
    seen = [probabilities(model, images_NHW) for model in bundles]
    seen += [probabilities(model, images_NHW[:, :, ::-1])[..., ::-1] for model in bundles]
    return 255 * np.mean(seen, axis=0)[:, 1:]

"""A model that is in doubt, so that a small difference in its arithmetic shows in its classes."""

from __future__ import annotations

import numpy as np
import torch

from covseg_ray.radiograph.phantom import make_phantom
from covseg_ray.segmentation.network.build import build_network
from covseg_ray.segmentation.network.bundle import Bundle, BundleSpec
from covseg_ray.segmentation.network.preprocess import Preprocess


def undecided_on_phantoms(side: int) -> Bundle:
    """A model for squares of ``side`` pixels that finds something on about half of each phantom."""
    return undecided_bundle(np.stack([make_phantom(5, index, side).image for index in range(8)]))


def undecided_bundle(films_NHW: np.ndarray, architecture: str = "unet", encoder: str = "resnet18") -> Bundle:
    """Random weights whose bias is set so that the two classes are about even on ``films_NHW``, uint8, square."""
    torch.manual_seed(3)
    network = build_network(architecture, encoder).eval()
    with torch.inference_mode():
        logits_NCHW = network(Preprocess()(torch.from_numpy(films_NHW)))
        network.segmentation_head[0].bias[1] += (logits_NCHW[:, 0] - logits_NCHW[:, 1]).median()
    spec = BundleSpec(architecture=architecture, encoder=encoder, input_size=films_NHW.shape[1])
    return Bundle(spec, network.state_dict())

"""Models with random weights that find something of every class on phantoms."""

from __future__ import annotations

import numpy as np
import torch

from covseg_ray.radiograph.phantom import make_phantom
from covseg_ray.segmentation.network.build import build_network
from covseg_ray.segmentation.network.bundle import Bundle, BundleSpec
from covseg_ray.segmentation.network.decision import Decision
from covseg_ray.segmentation.network.preprocess import Preprocess

WITH_LUNGS = ("background", "lung", "infection")


def random_model(seed: int, classes: tuple[str, ...], side: int = 64, decision: Decision = "argmax") -> Bundle:
    """Each class is the likeliest on a part of the pixels of films of ``side`` pixels."""
    torch.manual_seed(seed)
    network = build_network("unet", "resnet18", None, len(classes)).eval()
    films_NHW = np.stack([make_phantom(5, index, side).image for index in range(6)])
    head = network.segmentation_head[0]
    with torch.inference_mode():
        logits_NCHW = network(Preprocess()(torch.from_numpy(films_NHW)))
        scale = logits_NCHW.std(dim=(0, 2, 3))
        middle = logits_NCHW.transpose(0, 1).flatten(1).median(dim=1).values
        head.weight /= scale[:, None, None, None]
        head.bias.copy_((head.bias - middle) / scale)
    spec = BundleSpec(architecture="unet", encoder="resnet18", input_size=side, classes=classes, decision=decision)
    return Bundle(spec, network.state_dict())

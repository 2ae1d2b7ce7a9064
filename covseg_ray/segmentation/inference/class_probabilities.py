"""Each pixel's probability of each class, averaged over several models and each film's mirror image."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from covseg_ray.segmentation.inference.batchnorm_folding import prepare
from covseg_ray.segmentation.inference.predictor import default_chunk
from covseg_ray.segmentation.network.bundle import Bundle
from covseg_ray.segmentation.network.decision import MAX_LEVEL
from covseg_ray.segmentation.network.preprocess import Preprocess


class MeanProbabilities(nn.Module):
    """From films uint8 ``[N, S, S]`` to the mean over ``bundles``, each on the film and on its mirror image, of the
    probabilities of every class but background: uint8 ``[N, C-1, S, S]`` in 255ths. In float32, whatever the device.

    The bundles have the same classes and input size.
    """

    def __init__(self, bundles: Sequence[Bundle], device: str) -> None:
        super().__init__()
        self.device = torch.device(device)
        self.models = nn.ModuleList(_scores(bundle) for bundle in bundles).eval().to(self.device)

    def forward(self, images_NSS: Tensor) -> Tensor:
        plain = [model(images_NSS).softmax(1) for model in self.models]
        mirrored = [model(images_NSS.flip(2)).softmax(1).flip(3) for model in self.models]
        mean_NCSS = torch.stack(plain + mirrored).mean(0)
        return (mean_NCSS[:, 1:] * MAX_LEVEL).round().to(torch.uint8)

    def predict(self, images_NSS: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The same on arrays, some films at a time."""
        chunk = default_chunk(self.device.type)
        with torch.inference_mode():
            parts = (torch.from_numpy(images_NSS[at : at + chunk]) for at in range(0, len(images_NSS), chunk))
            return np.concatenate([self(part_NSS.to(self.device)).cpu().numpy() for part_NSS in parts])


def _scores(bundle: Bundle) -> nn.Module:
    normalisation = bundle.spec.normalisation
    network = prepare(bundle.network(), bundle.spec.input_size, torch.float32)
    return nn.Sequential(Preprocess(normalisation.mean, normalisation.std), network)

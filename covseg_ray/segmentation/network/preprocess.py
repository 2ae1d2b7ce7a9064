"""Films to the network's input, on the device that holds the network: the one preprocessing of every path."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

# Names all that is done to a film before the network, from its bytes on; a change that changes a mask raises it.
PREPROCESS_VERSION = "1"
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class Preprocess(nn.Module):
    """uint8 ``[N, H, W]`` to float32 ``[N, 3, H, W]`` in channels-last memory.

    Each film is scaled by its own minimum and maximum to [0, 1], repeated over three channels, and normalised by
    ``(x - mean) / std``; the defaults are ImageNet's. A constant film becomes 0 before normalisation: finite, whatever
    its value.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float] = IMAGENET_MEAN, std: Sequence[float] = IMAGENET_STD) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32), persistent=False)
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32), persistent=False)

    def forward(self, images_NHW: Tensor) -> Tensor:
        darkest_N11 = images_NHW.amin(dim=(1, 2), keepdim=True).float()
        brightest_N11 = images_NHW.amax(dim=(1, 2), keepdim=True).float()
        range_N11 = (brightest_N11 - darkest_N11).clamp_min(1.0)
        unit_NHW = (images_NHW.float() - darkest_N11) / range_N11
        channels_NHWC = (unit_NHW.unsqueeze(-1) - self.mean) / self.std
        return channels_NHWC.permute(0, 3, 1, 2)

"""A network as training leaves it, with batch statistics of its own, and films for it."""

from __future__ import annotations

import torch
from torch import nn

from covseg_ray.segmentation.network.build import build_network

SIDE = 64


def trained(architecture: str = "unet", encoder: str = "resnet18") -> nn.Module:
    """Random weights, and batch statistics that are not those of a new network."""
    torch.manual_seed(0)
    network = build_network(architecture, encoder, None, 3)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 2)
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(0, 0.1)
    return network.eval()


def films() -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, 3, SIDE, SIDE, generator=generator).to(memory_format=torch.channels_last)

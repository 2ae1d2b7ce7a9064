"""A U-Net's decoder with fewer multiplications: what it convolves after doubling is convolved before."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from covseg_ray.segmentation.inference.module_trace import look, replace
from covseg_ray.segmentation.network.graph import Shape
from covseg_ray.segmentation.network.torchvision_operators import smp

# At most two of a 3 x 3 kernel's columns (or rows) meet one pixel of the map that was doubled. Row k of a transposed
# kernel of 4, moved by 2, takes the sum of those that do: of the kernel's rows those with a 1.
_SUMS = ((0.0, 0.0, 1.0), (0.0, 1.0, 1.0), (1.0, 1.0, 0.0), (1.0, 0.0, 0.0))


class Joined(nn.Module):
    """A 3 x 3 convolution and its activation over two maps beside each other: ``deep`` ``[N, D, H, W]``, doubled to the
    nearest, and ``skip`` ``[N, S, 2H, 2W]`` where there is one. Gives ``[N, C, 2H, 2W]``.

    Over a doubled map it is a transposed convolution over the map itself, of 4 taps a pixel for 9: the kernel's sums
    over the pixels that doubling made equal (Dumoulin and Visin 2016, section 4, for transposed convolutions). What
    each map gives is added.
    """

    def __init__(self, conv: nn.Conv2d, activation: nn.Module, deep: int) -> None:
        super().__init__()
        skip, made = conv.in_channels - deep, conv.out_channels
        self.deep = nn.ConvTranspose2d(deep, made, 4, stride=2, padding=1, bias=skip == 0)
        self.skip = nn.Conv2d(skip, made, 3, padding=1) if skip else None
        self.activation = activation
        sums_KT = torch.tensor(_SUMS, dtype=conv.weight.dtype)
        doubled_DCKK = torch.einsum("cdst,ks,lt->dckl", conv.weight.detach()[:, :deep], sums_KT, sums_KT)
        self.deep.weight = nn.Parameter(doubled_DCKK.contiguous())
        if self.skip is None:
            self.deep.bias = conv.bias
        else:
            self.skip.weight, self.skip.bias = nn.Parameter(conv.weight.detach()[:, deep:].contiguous()), conv.bias

    def forward(self, deep_NDHW: Tensor, skip_NSHW: Tensor | None) -> Tensor:
        made_NCHW: Tensor = self.deep(deep_NDHW)
        if self.skip is not None:
            made_NCHW = made_NCHW + self.skip(skip_NSHW)
        found_NCHW: Tensor = self.activation(made_NCHW)
        return found_NCHW


class JoinedBlock(nn.Module):
    """In the place of a U-Net's decoder block, whose arguments it takes."""

    def __init__(self, joined: nn.Module, rest: nn.Module) -> None:
        super().__init__()
        self.joined, self.rest = joined, rest

    def forward(self, deep_NDHW: Tensor, height: int, width: int, skip_connection: Tensor | None = None) -> Tensor:
        found_NCHW: Tensor = self.rest(self.joined(deep_NDHW, skip_connection))
        return found_NCHW


def join(network: nn.Module, shape_NHW: Shape) -> None:
    """Replace the decoder blocks that double a map for a convolution with a bias, in a network without batch
    normalisation for films of one shape; what it gives stays the same but for rounding."""
    kind = smp().decoders.unet.decoder.UnetDecoderBlock
    blocks = {module: name for name, module in network.named_modules() if type(module) is kind}
    for block, depth in _doubling(network, shape_NHW, list(blocks)).items():
        conv, norm, activation = block.conv1
        bare = type(conv) is nn.Conv2d and type(norm) is nn.Identity and type(activation) is nn.ReLU
        if bare and conv.bias is not None:
            replace(network, blocks[block], JoinedBlock(Joined(conv, activation, depth), block.conv2))


def _doubling(network: nn.Module, shape_NHW: Shape, blocks: list[Any]) -> dict[Any, int]:
    """Of the blocks those that double what they take and nothing else, with its number of channels."""
    found: dict[Any, int] = {}

    def seen(block: Any, inputs: tuple[Any, ...], more: dict[str, Any]) -> None:
        deep_NDHW, height, width = inputs
        attends = any(not isinstance(each.attention, nn.Identity) for each in (block.attention1, block.attention2))
        doubles = (height, width) == (2 * deep_NDHW.shape[2], 2 * deep_NDHW.shape[3])
        if doubles and block.interpolation_mode == "nearest" and not attends:
            found[block] = deep_NDHW.shape[1]

    look(network, shape_NHW, [block.register_forward_pre_hook(seen, with_kwargs=True) for block in blocks])
    return found

"""A U-Net's decoder with fewer multiplications: the convolution is applied before upsampling instead of after it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from covseg_ray.segmentation.inference.module_trace import replace, run_with_hooks
from covseg_ray.segmentation.network.graph import Shape
from covseg_ray.segmentation.network.torchvision_operators import smp

# After nearest-neighbour upsampling at most two of a 3 x 3 kernel's rows (or columns) read the same pixel. Row k of the
# transposed kernel of 4 with stride 2 is the sum of those rows: those marked 1.
_SUMS = ((0.0, 0.0, 1.0), (0.0, 1.0, 1.0), (1.0, 1.0, 0.0), (1.0, 0.0, 0.0))


class UpsampleConv(nn.Module):
    """A 3 x 3 convolution and its activation over two concatenated maps: ``deep`` ``[N, D, H, W]``, upsampled to twice
    its size by nearest neighbour, and ``skip`` ``[N, S, 2H, 2W]``, which may be absent. Returns ``[N, C, 2H, 2W]``.

    Over the upsampled map this equals a transposed convolution over the map itself with 4 taps a pixel in place of 9:
    kernel weights that meet the same pixel are added (Dumoulin and Visin 2016, section 4, for transposed convolutions).
    The two maps' results are summed.
    """

    def __init__(self, conv: nn.Conv2d, activation: nn.Module, deep: int) -> None:
        super().__init__()
        skip, channels = conv.in_channels - deep, conv.out_channels
        self.deep = nn.ConvTranspose2d(deep, channels, 4, stride=2, padding=1, bias=skip == 0)
        self.skip = nn.Conv2d(skip, channels, 3, padding=1) if skip else None
        self.activation = activation
        sums_KT = torch.tensor(_SUMS, dtype=conv.weight.dtype)
        transposed_DCKK = torch.einsum("cdst,ks,lt->dckl", conv.weight.detach()[:, :deep], sums_KT, sums_KT)
        self.deep.weight = nn.Parameter(transposed_DCKK.contiguous())
        if self.skip is None:
            self.deep.bias = conv.bias
        else:
            self.skip.weight, self.skip.bias = nn.Parameter(conv.weight.detach()[:, deep:].contiguous()), conv.bias

    def forward(self, deep_NDHW: Tensor, skip_NSHW: Tensor | None) -> Tensor:
        sum_NCHW: Tensor = self.deep(deep_NDHW)
        if self.skip is not None:
            sum_NCHW = sum_NCHW + self.skip(skip_NSHW)
        output_NCHW: Tensor = self.activation(sum_NCHW)
        return output_NCHW


class FusedDecoderBlock(nn.Module):
    """Replaces a U-Net's decoder block and takes the same arguments."""

    def __init__(self, upsample_conv: nn.Module, rest: nn.Module) -> None:
        super().__init__()
        self.upsample_conv, self.rest = upsample_conv, rest

    def forward(self, deep_NDHW: Tensor, height: int, width: int, skip_connection: Tensor | None = None) -> Tensor:
        output_NCHW: Tensor = self.rest(self.upsample_conv(deep_NDHW, skip_connection))
        return output_NCHW


def fuse_decoder_blocks(network: nn.Module, shape_NHW: Shape) -> None:
    """Replace the decoder blocks that upsample and then convolve with a bias, in a network without batch normalisation
    for films of one shape. The output stays the same but for rounding."""
    kind = smp().decoders.unet.decoder.UnetDecoderBlock
    blocks = {module: name for name, module in network.named_modules() if type(module) is kind}
    for block, depth in _upsampling_blocks(network, shape_NHW, list(blocks)).items():
        conv, norm, activation = block.conv1
        foldable = type(conv) is nn.Conv2d and type(norm) is nn.Identity and type(activation) is nn.ReLU
        if foldable and conv.bias is not None:
            replace(network, blocks[block], FusedDecoderBlock(UpsampleConv(conv, activation, depth), block.conv2))


def _upsampling_blocks(network: nn.Module, shape_NHW: Shape, blocks: list[Any]) -> dict[Any, int]:
    """The blocks that upsample by 2 with nearest neighbour and no attention, with their input's number of channels."""
    found: dict[Any, int] = {}

    def record(block: Any, inputs: tuple[Any, ...], more: dict[str, Any]) -> None:
        deep_NDHW, height, width = inputs
        attends = any(not isinstance(each.attention, nn.Identity) for each in (block.attention1, block.attention2))
        upsamples = (height, width) == (2 * deep_NDHW.shape[2], 2 * deep_NDHW.shape[3])
        if upsamples and block.interpolation_mode == "nearest" and not attends:
            found[block] = deep_NDHW.shape[1]

    run_with_hooks(network, shape_NHW, [block.register_forward_pre_hook(record, with_kwargs=True) for block in blocks])
    return found

"""A network's convolutions as oneDNN computes them best: weights laid out for the processor once, the addition and
the activation after them fused."""

from __future__ import annotations

import platform

import torch
from torch import Tensor, nn

from covseg_ray.segmentation.inference.batchnorm_folding import SingleTypeNetwork
from covseg_ray.segmentation.inference.fused_decoder import UpsampleConv
from covseg_ray.segmentation.inference.module_trace import direct_consumers, input_shapes, replace
from covseg_ray.segmentation.network.graph import Shape


class PackedConv2d(nn.Module):
    """A convolution whose weights oneDNN has laid out once for one shape of input, not at every call, which for one
    film takes as long as the convolution. Inductor's frozen graphs do the same.

    With an ``activation``, that is fused into it.
    """

    def __init__(self, conv: nn.Conv2d, shape_NCHW: torch.Size, activation: nn.Module | None = None) -> None:
        super().__init__()
        self.args = (list(conv.padding), list(conv.stride), list(conv.dilation), conv.groups)
        self.weight = torch.ops.mkldnn._reorder_convolution_weight(conv.weight.detach(), *self.args, list(shape_NCHW))
        self.bias = None if conv.bias is None else conv.bias.detach()
        self.post_op: tuple[str, list[float], str] = ("none", [], "")
        if isinstance(activation, nn.ReLU6):
            self.post_op = ("hardtanh", [0.0, 6.0], "")
        elif activation is not None:
            self.post_op = ("relu", [], "")

    def forward(self, input_NCHW: Tensor) -> Tensor:
        output: Tensor = torch.ops.mkldnn._convolution_pointwise(
            input_NCHW, self.weight, self.bias, *self.args, *self.post_op
        )
        return output


class PackedUpsampleConv(nn.Module):
    """`UpsampleConv` with its weights laid out, the skip map's sum and the activation fused."""

    def __init__(self, block: UpsampleConv, deep_NDHW: torch.Size) -> None:
        super().__init__()
        count, _, height, width = deep_NDHW
        deep, skip = block.deep, block.skip
        self.args = (
            list(deep.padding),
            list(deep.output_padding),
            list(deep.stride),
            list(deep.dilation),
            deep.groups,
        )
        self.weight = torch.ops.mkldnn._reorder_convolution_transpose_weight(
            deep.weight.detach(), *self.args, list(deep_NDHW)
        )
        self.bias = None if deep.bias is None else deep.bias.detach()
        self.skip = None
        if skip is not None:
            self.skip = PackedConv2d(skip, torch.Size((count, skip.in_channels, 2 * height, 2 * width)))

    def forward(self, deep_NDHW: Tensor, skip_NSHW: Tensor | None) -> Tensor:
        activation = "relu" if self.skip is None else "none"
        output: Tensor = torch.ops.mkldnn._convolution_transpose_pointwise(
            deep_NDHW, self.weight, self.bias, *self.args, activation, [], ""
        )
        if self.skip is not None:
            weights = (self.skip.weight, self.skip.bias, *self.skip.args)
            torch.ops.mkldnn._convolution_pointwise_.binary(output, skip_NSHW, *weights, "add", 1.0, "relu", [], "")
        return output


def pack_weights(network: nn.Module, shape_NHW: Shape) -> nn.Module:
    """Pack the network's convolutions for this processor and films of one shape, in place; a network that is no
    `SingleTypeNetwork`, or a processor that oneDNN has no layouts for, is left as it is."""
    if not isinstance(network, SingleTypeNetwork) or not has_onednn_layouts():
        return network
    blocks: dict[nn.Module, str] = {
        each: name for name, each in network.named_modules() if isinstance(each, UpsampleConv)
    }
    for block, shape in input_shapes(network, shape_NHW, list(blocks)).items():
        replace(network, blocks[block], PackedUpsampleConv(block, shape))
    names = {module: name for name, module in network.named_modules()}
    activations = direct_consumers(network, shape_NHW, (nn.ReLU, nn.ReLU6))
    for conv, shape in input_shapes(network, shape_NHW, [each for each in names if type(each) is nn.Conv2d]).items():
        if conv.padding_mode != "zeros" or isinstance(conv.padding, str):
            continue
        # An activation in place is the only reader of its input; another one may not be.
        activation = activations.get(conv)
        fused = activation if getattr(activation, "inplace", False) else None
        replace(network, names[conv], PackedConv2d(conv, shape, fused))
        if fused is not None:
            replace(network, names[fused], nn.Identity())
    return network


def has_onednn_layouts() -> bool:
    """Whether oneDNN is in this torch, and has layouts of its own for this processor."""
    return bool(torch._C._has_mkldnn) and platform.machine().lower() in ("x86_64", "amd64")

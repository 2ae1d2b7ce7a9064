"""A lean network's convolutions as oneDNN computes them best: their weights laid out for the processor once, the
addition and the activation after them in the same pass."""

from __future__ import annotations

import platform

import torch
from torch import Tensor, nn

from covseg_ray.segmentation.inference.batchnorm_folding import Lean
from covseg_ray.segmentation.inference.fused_decoder import Joined
from covseg_ray.segmentation.inference.module_trace import followers, input_shapes, replace
from covseg_ray.segmentation.network.graph import Shape


class PackedConv2d(nn.Module):
    """A convolution whose weights oneDNN has laid out for one shape of input: else it does so at every call, which for
    one film takes as long as the convolution. Inductor's frozen graphs do the same.

    With an ``activation`` it computes that too, before it writes a value.
    """

    def __init__(self, conv: nn.Conv2d, shape_NCHW: torch.Size, activation: nn.Module | None = None) -> None:
        super().__init__()
        self.how = (list(conv.padding), list(conv.stride), list(conv.dilation), conv.groups)
        self.weight = torch.ops.mkldnn._reorder_convolution_weight(conv.weight.detach(), *self.how, list(shape_NCHW))
        self.bias = None if conv.bias is None else conv.bias.detach()
        self.then: tuple[str, list[float], str] = ("none", [], "")
        if isinstance(activation, nn.ReLU6):
            self.then = ("hardtanh", [0.0, 6.0], "")
        elif activation is not None:
            self.then = ("relu", [], "")

    def forward(self, input_NCHW: Tensor) -> Tensor:
        made: Tensor = torch.ops.mkldnn._convolution_pointwise(
            input_NCHW, self.weight, self.bias, *self.how, *self.then
        )
        return made


class PackedJoined(nn.Module):
    """`Joined` with its weights laid out: what the skip's map gives is added, and the activation computed, before a
    value is written."""

    def __init__(self, joined: Joined, deep_NDHW: torch.Size) -> None:
        super().__init__()
        count, _, height, width = deep_NDHW
        deep, skip = joined.deep, joined.skip
        self.how = (list(deep.padding), list(deep.output_padding), list(deep.stride), list(deep.dilation), deep.groups)
        self.weight = torch.ops.mkldnn._reorder_convolution_transpose_weight(
            deep.weight.detach(), *self.how, list(deep_NDHW)
        )
        self.bias = None if deep.bias is None else deep.bias.detach()
        self.skip = None
        if skip is not None:
            self.skip = PackedConv2d(skip, torch.Size((count, skip.in_channels, 2 * height, 2 * width)))

    def forward(self, deep_NDHW: Tensor, skip_NSHW: Tensor | None) -> Tensor:
        then = "relu" if self.skip is None else "none"
        made: Tensor = torch.ops.mkldnn._convolution_transpose_pointwise(
            deep_NDHW, self.weight, self.bias, *self.how, then, [], ""
        )
        if self.skip is not None:
            weights = (self.skip.weight, self.skip.bias, *self.skip.how)
            torch.ops.mkldnn._convolution_pointwise_.binary(made, skip_NSHW, *weights, "add", 1.0, "relu", [], "")
        return made


def prepack(network: nn.Module, shape_NHW: Shape) -> nn.Module:
    """The network with its convolutions packed for this processor and films of one shape, where it is lean and the
    processor one that oneDNN has layouts for; it is changed."""
    if not isinstance(network, Lean) or not has_layouts():
        return network
    joins: dict[nn.Module, str] = {each: name for name, each in network.named_modules() if isinstance(each, Joined)}
    for joined, shape in input_shapes(network, shape_NHW, list(joins)).items():
        replace(network, joins[joined], PackedJoined(joined, shape))
    names = {module: name for name, module in network.named_modules()}
    activations = followers(network, shape_NHW, (nn.ReLU, nn.ReLU6))
    for conv, shape in input_shapes(network, shape_NHW, [each for each in names if type(each) is nn.Conv2d]).items():
        if conv.padding_mode != "zeros" or isinstance(conv.padding, str):
            continue
        # One that is in place takes the values before it from everyone; another may not be alone in reading them.
        activation = activations.get(conv)
        joined = activation if getattr(activation, "inplace", False) else None
        replace(network, names[conv], PackedConv2d(conv, shape, joined))
        if joined is not None:
            replace(network, names[joined], nn.Identity())
    return network


def has_layouts() -> bool:
    """Whether oneDNN is in this torch, and has layouts of its own for this processor."""
    return bool(torch._C._has_mkldnn) and platform.machine().lower() in ("x86_64", "amd64")

"""A trained network made ready to predict: without its batch normalisation, weights in the type that is computed in and
laid out for the processor once."""

from __future__ import annotations

import platform
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from covseg_ray.segmentation.graph import Shape
from covseg_ray.segmentation.network import channels_last


class Lean(nn.Module):
    """A network of convolutions in one type; films and what it gives are as the network's own."""

    def __init__(self, network: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.network, self.dtype = network, dtype

    def forward(self, films_NCHW: Tensor) -> Tensor:
        scores_NCHW: Tensor = self.network(films_NCHW.to(self.dtype))
        return scores_NCHW


class PackedConv2d(nn.Module):
    """A convolution whose weights oneDNN has laid out for one shape of input: else it does so at every call, which for
    one film takes as long as the convolution. Inductor's frozen graphs do the same."""

    def __init__(self, conv: nn.Conv2d, shape_NCHW: torch.Size) -> None:
        super().__init__()
        self.how = (list(conv.padding), list(conv.stride), list(conv.dilation), conv.groups)
        self.weight = torch.ops.mkldnn._reorder_convolution_weight(conv.weight.detach(), *self.how, list(shape_NCHW))
        self.bias = None if conv.bias is None else conv.bias.detach()

    def forward(self, input_NCHW: Tensor) -> Tensor:
        made: Tensor = torch.ops.mkldnn._convolution_pointwise(
            input_NCHW, self.weight, self.bias, *self.how, "none", [], ""
        )
        return made


def lean(network: nn.Module, side: int, dtype: torch.dtype) -> nn.Module:
    """A network in evaluation mode, on the CPU, ready to predict films of ``side`` pixels in ``dtype``; it is changed.

    Batch normalisation is folded into the convolution before it (Ioffe and Szegedy 2015, section 3.1). A network that
    is more than convolutions then is left to autocast, which knows what must stay in float32.
    """
    fold(channels_last(network), side)
    with_weights = [module for module in network.modules() if next(module.parameters(recurse=False), None) is not None]
    if not all(isinstance(module, nn.Conv2d) for module in with_weights):
        return network
    return Lean(channels_last(network.to(dtype)), dtype)


def fold(network: nn.Module, side: int) -> None:
    """Fold each batch normalisation that takes a convolution's output as it is into that convolution."""
    names = {module: name for name, module in network.named_modules()}
    made: dict[int, tuple[nn.Conv2d, Tensor]] = {}  # by the tensor, which is kept, so that its id stays its own
    pairs: list[tuple[nn.Conv2d, nn.BatchNorm2d]] = []

    def taken(module: nn.BatchNorm2d, inputs: tuple[Tensor, ...]) -> None:
        if id(inputs[0]) in made:
            pairs.append((made[id(inputs[0])][0], module))

    def given(module: nn.Conv2d, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        made[id(output)] = module, output

    hooks = [module.register_forward_hook(given) for module in names if isinstance(module, nn.Conv2d)]
    hooks += [module.register_forward_pre_hook(taken) for module in names if type(module) is nn.BatchNorm2d]
    look(network, (1, side, side), hooks)
    for conv, norm in pairs:
        replace(network, names[conv], fuse_conv_bn_eval(conv, norm))
        replace(network, names[norm], nn.Identity())


def prepack(network: nn.Module, shape_NHW: Shape) -> nn.Module:
    """The network with the weights of its convolutions laid out for this processor and films of one shape, where it is
    lean and the processor one that oneDNN has layouts for; it is changed."""
    if not isinstance(network, Lean) or not has_layouts():
        return network
    names = {module: name for name, module in network.named_modules() if type(module) is nn.Conv2d}
    shapes: dict[nn.Module, torch.Size] = {}

    def seen(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        shapes[module] = inputs[0].shape

    look(network, shape_NHW, [module.register_forward_pre_hook(seen) for module in names])
    for conv, name in names.items():
        if conv in shapes and conv.padding_mode == "zeros" and not isinstance(conv.padding, str):
            replace(network, name, PackedConv2d(conv, shapes[conv]))
    return network


def has_layouts() -> bool:
    """Whether oneDNN is in this torch, and has layouts of its own for this processor."""
    return bool(torch._C._has_mkldnn) and platform.machine().lower() in ("x86_64", "amd64")


def look(network: nn.Module, shape_NHW: Shape, hooks: list[Any]) -> None:
    """One pass over black films, after which the hooks are taken off."""
    count, *sides = shape_NHW
    with torch.inference_mode():
        network(torch.zeros(count, 3, *sides).to(memory_format=torch.channels_last))
    for hook in hooks:
        hook.remove()


def replace(network: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, leaf = name.rpartition(".")
    setattr(network.get_submodule(parent), leaf, module)

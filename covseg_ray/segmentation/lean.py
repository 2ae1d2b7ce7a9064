"""A trained network made ready to predict: without its batch normalisation, in the type that is computed in."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from covseg_ray.segmentation.graph import Shape
from covseg_ray.segmentation.network import channels_last
from covseg_ray.segmentation.operators import smp


class Lean(nn.Module):
    """A network of convolutions in one type; films and what it gives are as the network's own."""

    def __init__(self, network: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.network, self.dtype = network, dtype

    def forward(self, films_NCHW: Tensor) -> Tensor:
        scores_NCHW: Tensor = self.network(films_NCHW.to(self.dtype))
        return scores_NCHW


def lean(network: nn.Module, side: int, dtype: torch.dtype) -> nn.Module:
    """A network in evaluation mode, on the CPU, ready to predict films of ``side`` pixels in ``dtype``; it is changed.

    Batch normalisation is folded into the convolution before it (Ioffe and Szegedy 2015, section 3.1). A network that
    is more than convolutions then is left to autocast, which knows what must stay in float32.
    """
    settle(channels_last(network), side)
    fold(network, side)
    with_weights = [module for module in network.modules() if next(module.parameters(recurse=False), None) is not None]
    if not all(isinstance(module, nn.Conv2d) for module in with_weights):
        return network
    return Lean(channels_last(network.to(dtype)), dtype)


def settle(network: nn.Module, side: int) -> None:
    """Make timm's convolutions that pad by the size of their input, as TensorFlow's "same" does, ordinary ones: for
    films of one size that is known beforehand."""
    layers = smp().encoders.timm.layers
    convs = {module: name for name, module in network.named_modules() if type(module) is layers.Conv2dSame}
    if not convs:
        return
    for conv, shape in input_shapes(network, (1, side, side), list(convs)).items():
        padding = layers.padding.pad_same_arg(list(shape[2:]), conv.kernel_size, conv.stride, conv.dilation)
        plain = nn.Conv2d(
            conv.in_channels,
            conv.out_channels,
            conv.kernel_size,
            conv.stride,
            dilation=conv.dilation,
            groups=conv.groups,
            bias=conv.bias is not None,
        )
        plain.weight, plain.bias = conv.weight, conv.bias
        replace(network, convs[conv], nn.Sequential(nn.ZeroPad2d(tuple(padding)), plain.eval()))


def fold(network: nn.Module, side: int) -> None:
    """Fold each batch normalisation that takes a convolution's output as it is into that convolution."""
    names = {module: name for name, module in network.named_modules()}
    with_activation = smp().encoders.timm.layers.BatchNormAct2d
    for conv, norm in followers(network, (1, side, side), (nn.BatchNorm2d, with_activation)).items():
        replace(network, names[conv], fuse_conv_bn_eval(conv, norm))
        rest = nn.Sequential(norm.drop, norm.act) if isinstance(norm, with_activation) else nn.Identity()
        replace(network, names[norm], rest)


def followers(network: nn.Module, shape_NHW: Shape, kinds: tuple[type[nn.Module], ...]) -> dict[nn.Conv2d, Any]:
    """The modules of exactly these kinds that take a convolution's output as it is, by that convolution; of pairs that
    a pass goes through once."""
    made: dict[int, tuple[nn.Conv2d, Tensor, int]] = {}  # by the tensor, which is kept, so that its id stays its own
    pairs: dict[nn.Conv2d, Any] = {}
    calls: Counter[nn.Module] = Counter()

    def taken(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        calls[module] += 1
        if id(inputs[0]) in made:
            conv, output, version = made[id(inputs[0])]
            if output._version == version:  # else something was added to it in place
                pairs[conv] = module

    def given(module: nn.Conv2d, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        calls[module] += 1
        made[id(output)] = module, output, output._version

    modules = list(network.modules())
    hooks = [module.register_forward_hook(given) for module in modules if type(module) is nn.Conv2d]
    hooks += [module.register_forward_pre_hook(taken) for module in modules if type(module) in kinds]
    look(network, shape_NHW, hooks)
    return {conv: module for conv, module in pairs.items() if calls[conv] == calls[module] == 1}


def input_shapes(network: nn.Module, shape_NHW: Shape, modules: list[nn.Module]) -> dict[Any, torch.Size]:
    """The shape of what each of these modules takes, where a pass goes through it."""
    shapes: dict[Any, torch.Size] = {}

    def seen(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        shapes[module] = inputs[0].shape

    look(network, shape_NHW, [module.register_forward_pre_hook(seen) for module in modules])
    return shapes


def look(network: nn.Module, shape_NHW: Shape, hooks: list[Any]) -> None:
    """One pass over black films, after which the hooks are taken off."""
    count, *sides = shape_NHW
    with torch.inference_mode(False), torch.no_grad():  # inference mode counts no versions
        network(torch.zeros(count, 3, *sides).to(memory_format=torch.channels_last))
    for hook in hooks:
        hook.remove()


def replace(network: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, leaf = name.rpartition(".")
    setattr(network.get_submodule(parent), leaf, module)

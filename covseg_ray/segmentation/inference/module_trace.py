"""What a network does with a film, seen in one pass, and how one of its modules is replaced."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch import Tensor, nn

from covseg_ray.segmentation.network.graph import Shape


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

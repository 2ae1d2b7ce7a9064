"""Which modules of a network follow one another, recorded in one forward pass, and how one of them is replaced."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch import Tensor, nn

from covseg_ray.segmentation.network.graph import Shape


def direct_consumers(network: nn.Module, shape_NHW: Shape, kinds: tuple[type[nn.Module], ...]) -> dict[nn.Conv2d, Any]:
    """By convolution, the module of exactly one of ``kinds`` that takes its output unchanged; pairs that a forward
    pass calls once."""
    outputs: dict[int, tuple[nn.Conv2d, Tensor, int]] = {}  # the tensor is kept, so that its id stays its own
    pairs: dict[nn.Conv2d, Any] = {}
    calls: Counter[nn.Module] = Counter()

    def before(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        calls[module] += 1
        if id(inputs[0]) in outputs:
            conv, output, version = outputs[id(inputs[0])]
            if output._version == version:  # else it was changed in place since
                pairs[conv] = module

    def after(module: nn.Conv2d, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        calls[module] += 1
        outputs[id(output)] = module, output, output._version

    modules = list(network.modules())
    hooks = [module.register_forward_hook(after) for module in modules if type(module) is nn.Conv2d]
    hooks += [module.register_forward_pre_hook(before) for module in modules if type(module) in kinds]
    run_with_hooks(network, shape_NHW, hooks)
    return {conv: module for conv, module in pairs.items() if calls[conv] == calls[module] == 1}


def input_shapes(network: nn.Module, shape_NHW: Shape, modules: list[nn.Module]) -> dict[Any, torch.Size]:
    """The shape of each module's input, for modules that a forward pass calls."""
    shapes: dict[Any, torch.Size] = {}

    def record(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        shapes[module] = inputs[0].shape

    run_with_hooks(network, shape_NHW, [module.register_forward_pre_hook(record) for module in modules])
    return shapes


def run_with_hooks(network: nn.Module, shape_NHW: Shape, hooks: list[Any]) -> None:
    """Run one forward pass over black films, then remove the hooks."""
    count, *sides = shape_NHW
    with torch.inference_mode(False), torch.no_grad():  # inference mode counts no versions
        network(torch.zeros(count, 3, *sides).to(memory_format=torch.channels_last))
    for hook in hooks:
        hook.remove()


def replace(network: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, leaf = name.rpartition(".")
    setattr(network.get_submodule(parent), leaf, module)

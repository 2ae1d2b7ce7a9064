"""The layers of a network, for the document of ``covseg-ray model info --json``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from covseg_ray.segmentation.network.bundle import Bundle
from covseg_ray.segmentation.network.preprocess import Preprocess

_DEPTH = 2


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer: its module's name and class, its output's shape, its number of trainable parameters.

    ``output_shape`` is that of one film, without the batch axis; None where the output is not a single tensor.
    """

    name: str
    kind: str
    output_shape: tuple[int, ...] | None
    parameters: int


def describe(bundle: Bundle) -> list[Layer]:
    """The layers in the network's order. Their ``parameters`` add up to those of the network.

    Raises:
        ModelError: as :meth:`Bundle.network`.
    """
    network = bundle.network()
    parts = dict(_parts(network, "", _DEPTH))
    shapes: dict[nn.Module, tuple[int, ...]] = {}

    def record(module: nn.Module, _: object, output: object) -> None:
        if isinstance(output, Tensor):
            shapes[module] = tuple(output.shape[1:])

    hooks = [part.register_forward_hook(record) for part in parts.values()]
    with torch.inference_mode():
        network(Preprocess()(torch.zeros(1, bundle.spec.input_size, bundle.spec.input_size, dtype=torch.uint8)))
    for hook in hooks:
        hook.remove()
    return [
        Layer(name, type(part).__name__, shapes.get(part), trainable_parameters(part)) for name, part in parts.items()
    ]


def trainable_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)


def _parts(module: nn.Module, prefix: str, depth: int) -> Iterator[tuple[str, nn.Module]]:
    """Modules ``depth`` levels down; a list of modules does not count as a level."""
    for name, child in module.named_children():
        below = depth if isinstance(child, nn.ModuleList) else depth - 1
        if below and next(child.children(), None) is not None:
            yield from _parts(child, f"{prefix}{name}.", below)
        else:
            yield f"{prefix}{name}", child

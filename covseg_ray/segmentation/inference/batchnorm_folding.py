"""A trained network made ready to predict: without its batch normalisation, in the type that is computed in."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from covseg_ray.segmentation.inference.fused_decoder import join
from covseg_ray.segmentation.inference.module_trace import followers, input_shapes, replace
from covseg_ray.segmentation.network.build import channels_last
from covseg_ray.segmentation.network.torchvision_operators import smp


class Lean(nn.Module):
    """A network of convolutions in one type; films and what it gives are as the network's own."""

    def __init__(self, network: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.network, self.dtype = network, dtype

    def forward(self, films_NCHW: Tensor) -> Tensor:
        scores_NCHW: Tensor = self.network(films_NCHW.to(self.dtype))
        return scores_NCHW


def lean(network: nn.Module, side: int, dtype: torch.dtype, joined: bool = False) -> nn.Module:
    """A network in evaluation mode, on the CPU, ready to predict films of ``side`` pixels in ``dtype``; it is changed.

    Batch normalisation is folded into the convolution before it (Ioffe and Szegedy 2015, section 3.1), and with
    ``joined`` the decoder is as :func:`fused_decoder.join` makes it. A network that is more than
    convolutions then is left to autocast, which knows what must stay in float32.
    """
    settle(channels_last(network), side)
    fold(network, side)
    if joined:
        join(network, (1, side, side))
    with_weights = [module for module in network.modules() if next(module.parameters(recurse=False), None) is not None]
    if not all(isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)) for module in with_weights):
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

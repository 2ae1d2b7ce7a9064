"""A trained network prepared for inference: batch normalisation folded, weights in the type of the computation."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from covseg_ray.segmentation.inference.fused_decoder import fuse_decoder_blocks
from covseg_ray.segmentation.inference.module_trace import direct_consumers, input_shapes, replace
from covseg_ray.segmentation.network.build import channels_last
from covseg_ray.segmentation.network.torchvision_operators import smp


class SingleTypeNetwork(nn.Module):
    """A network of convolutions whose weights all have one type; it takes and returns the same tensors as before."""

    def __init__(self, network: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.network, self.dtype = network, dtype

    def forward(self, films_NCHW: Tensor) -> Tensor:
        scores_NCHW: Tensor = self.network(films_NCHW.to(self.dtype))
        return scores_NCHW


def prepare(network: nn.Module, side: int, dtype: torch.dtype, fuse_decoder: bool = False) -> nn.Module:
    """Prepare a network in evaluation mode on the CPU for films of ``side`` pixels and for ``dtype``, in place.

    Batch normalisation is folded into the convolution before it (Ioffe and Szegedy 2015, section 3.1). With
    ``fuse_decoder`` the decoder's blocks are replaced as :func:`fused_decoder.fuse_decoder_blocks` describes. A network
    with other layers than convolutions is then left to autocast, which knows what must stay in float32.
    """
    make_padding_static(channels_last(network), side)
    fold_batchnorm(network, side)
    if fuse_decoder:
        fuse_decoder_blocks(network, (1, side, side))
    with_weights = [module for module in network.modules() if next(module.parameters(recurse=False), None) is not None]
    if not all(isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)) for module in with_weights):
        return network
    return SingleTypeNetwork(channels_last(network.to(dtype)), dtype)


def make_padding_static(network: nn.Module, side: int) -> None:
    """Replace timm's convolutions whose padding depends on the input's size (TensorFlow's "same") by ordinary ones,
    for films of ``side`` pixels."""
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


def fold_batchnorm(network: nn.Module, side: int) -> None:
    """Fold each batch normalisation that takes a convolution's output unchanged into that convolution."""
    names = {module: name for name, module in network.named_modules()}
    with_activation = smp().encoders.timm.layers.BatchNormAct2d
    for conv, norm in direct_consumers(network, (1, side, side), (nn.BatchNorm2d, with_activation)).items():
        replace(network, names[conv], fuse_conv_bn_eval(conv, norm))
        rest = nn.Sequential(norm.drop, norm.act) if isinstance(norm, with_activation) else nn.Identity()
        replace(network, names[norm], rest)

"""A decoder that convolves before it upsamples, against the network's own, which upsamples and then convolves."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from normed_network import SIDE, films, trained
from scipy import signal
from torch import nn

from covseg_ray.segmentation.inference.batchnorm_folding import SingleTypeNetwork, prepare
from covseg_ray.segmentation.inference.fused_decoder import FusedDecoderBlock, UpsampleConv
from covseg_ray.segmentation.inference.packed_weights import PackedUpsampleConv, has_onednn_layouts, pack_weights
from covseg_ray.segmentation.network.precision import knows_bf16
from covseg_ray.segmentation.network.torchvision_operators import smp


def blocks(network: nn.Module) -> int:
    return sum(isinstance(module, FusedDecoderBlock) for module in network.modules())


def test_an_upsampled_and_a_skip_map_are_convolved_as_scipy_does() -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(5, 2, 3, padding=1)
    assert conv.bias is not None
    deep_NDHW, skip_NSHW = torch.randn(1, 3, 4, 6), torch.randn(1, 2, 8, 12)
    found_NCHW = UpsampleConv(conv, nn.ReLU(), deep=3)(deep_NDHW, skip_NSHW).detach().numpy()
    maps_CHW = np.concatenate([deep_NDHW[0].numpy().repeat(2, 1).repeat(2, 2), skip_NSHW[0].numpy()])
    weights_CIKK, biases_C = conv.weight.detach().numpy(), conv.bias.detach().numpy()
    for channel, weights_IKK in enumerate(weights_CIKK):
        each = [signal.correlate2d(*pair, "same") for pair in zip(maps_CHW, weights_IKK, strict=True)]
        np.testing.assert_allclose(found_NCHW[0, channel], np.maximum(sum(each) + biases_C[channel], 0), atol=1e-5)


@pytest.mark.parametrize("encoder", ["resnet18", "tu-tf_efficientnet_lite2", "efficientnet-b0"])
def test_scores_are_those_of_the_network(encoder: str) -> None:
    network = trained(encoder=encoder)
    with torch.inference_mode():
        expected_NCHW = network(films())
        ready = prepare(network, SIDE, torch.float32, fuse_decoder=True)
        plain_NCHW = ready(films())
        packed = pack_weights(ready, (2, SIDE, SIDE))
        packed_NCHW = packed(films())
    scale = float(expected_NCHW.abs().max())
    assert blocks(ready) == 5
    np.testing.assert_allclose(plain_NCHW.numpy() / scale, expected_NCHW.numpy() / scale, atol=2e-5)
    np.testing.assert_allclose(packed_NCHW.numpy() / scale, expected_NCHW.numpy() / scale, atol=2e-5)
    if has_onednn_layouts() and isinstance(packed, SingleTypeNetwork):
        assert sum(isinstance(module, PackedUpsampleConv) for module in packed.modules()) == 5
        assert not any(isinstance(module, UpsampleConv | nn.Conv2d) for module in packed.modules())


@pytest.mark.skipif(not knows_bf16(torch.device("cpu")), reason="this CPU has no instructions for bf16")
def test_in_bf16_it_is_as_near_to_the_network_as_without() -> None:
    with torch.inference_mode():
        exact_NCHW = trained()(films())
        far = []
        for fused in (False, True):
            ready = pack_weights(prepare(trained(), SIDE, torch.bfloat16, fused), (2, SIDE, SIDE))
            far.append(float((ready(films()).float() - exact_NCHW).abs().mean()))
    assert far[1] < 1.25 * far[0]


@pytest.mark.parametrize("how", [{"decoder_attention_type": "scse"}, {"decoder_interpolation": "bilinear"}])
def test_a_block_with_attention_or_other_interpolation_stays(how: dict[str, str]) -> None:
    network = smp().Unet("resnet18", encoder_weights=None, classes=2, **how).eval()
    with torch.inference_mode():
        expected_NCHW = network(films())
        ready = prepare(network, SIDE, torch.float32, fuse_decoder=True)
        assert blocks(ready) == 0
        np.testing.assert_allclose(ready(films()).numpy(), expected_NCHW.numpy(), atol=2e-4)

"""A network prepared for inference, against itself before: the same scores, in fewer operations."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from normed_network import SIDE, films, trained
from torch import nn

from covseg_ray.segmentation.inference.batchnorm_folding import SingleTypeNetwork, fold_batchnorm, prepare
from covseg_ray.segmentation.inference.module_trace import direct_consumers
from covseg_ray.segmentation.inference.packed_weights import PackedConv2d, has_onednn_layouts, pack_weights
from covseg_ray.segmentation.network.decision import most_probable
from covseg_ray.segmentation.network.precision import knows_bf16


def norms(network: nn.Module) -> int:
    return sum(isinstance(module, nn.BatchNorm2d) for module in network.modules())


def test_a_folded_convolution_is_the_closed_form() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).eval()
    conv, norm = network
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.5, 2)
    factor_C = (norm.weight / torch.sqrt(norm.running_var + norm.eps)).detach().numpy()
    weight = conv.weight.detach().numpy() * factor_C[:, None, None, None]
    bias = (conv.bias - norm.running_mean).detach().numpy() * factor_C + norm.bias.detach().numpy()
    fold_batchnorm(network, 8)
    np.testing.assert_allclose(network[0].weight.detach().numpy(), weight, rtol=1e-5)
    np.testing.assert_allclose(network[0].bias.detach().numpy(), bias, rtol=1e-5)


@pytest.mark.parametrize(
    ("architecture", "encoder"),
    [
        *(("unet", "resnet18"), ("unetplusplus", "resnet18"), ("fpn", "resnet18"), ("unet", "efficientnet-b0")),
        *(("unet", "densenet121"), ("unet", "tu-resnetv2_50")),  # normalise before a convolution, not after it
        *(("unet", "tu-tf_efficientnet_lite0"), ("unet", "tu-resnet18"), ("unet", "tu-mobilenetv3_small_100")),
    ],
)
def test_scores_are_those_of_the_network(architecture: str, encoder: str) -> None:
    network = trained(architecture, encoder)
    with torch.inference_mode():
        expected_NCHW = network(films())
        ready = pack_weights(prepare(network, SIDE, torch.float32), (2, SIDE, SIDE))
        found_NCHW = ready(films())
    scale = float(expected_NCHW.abs().max())
    np.testing.assert_allclose(found_NCHW.numpy() / scale, expected_NCHW.numpy() / scale, atol=2e-5)


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
# A ResNet's blocks have one activation for two places: it stays. The other figures are counts of modules.
@pytest.mark.parametrize(("encoder", "activations"), [("resnet18", 1 + 10), ("tu-tf_efficientnet_lite2", 42 + 10)])
def test_a_unet_is_convolutions_alone_in_one_type(encoder: str, activations: int, dtype: torch.dtype) -> None:
    ready = prepare(trained(encoder=encoder), SIDE, dtype)
    assert isinstance(ready, SingleTypeNetwork)
    assert norms(ready) == 0
    assert {parameter.dtype for parameter in ready.parameters()} == {dtype}
    if dtype == torch.bfloat16 and not knows_bf16(torch.device("cpu")):
        pytest.skip("this CPU has no instructions for bf16: no predictor computes in it")
    with torch.inference_mode():
        before = ready(films())
        packed = pack_weights(ready, (2, SIDE, SIDE))
        assert torch.equal(packed(films()), before)
    if has_onednn_layouts():
        convs = [module for module in packed.modules() if isinstance(module, PackedConv2d)]
        assert len(convs) > 20
        assert not any(type(module) is nn.Conv2d for module in packed.modules())
        assert sum(conv.post_op[0] != "none" for conv in convs) == activations


class Added(nn.Module):
    """A residual block's end, written in place: the activation's input is no longer the convolution's output."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.relu = nn.Conv2d(3, 3, 1), nn.ReLU(inplace=True)

    def forward(self, films_NCHW: torch.Tensor) -> torch.Tensor:
        sum_NCHW = self.conv(films_NCHW)
        sum_NCHW += films_NCHW
        return self.relu(sum_NCHW)


class Twice(nn.Module):
    """One convolution that is called twice and followed by two activations."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.one, self.other = nn.Conv2d(3, 3, 1), nn.ReLU(inplace=True), nn.ReLU6(inplace=True)

    def forward(self, films_NCHW: torch.Tensor) -> torch.Tensor:
        return self.one(self.conv(films_NCHW)) + self.other(self.conv(films_NCHW))


def test_a_direct_consumer_takes_the_output_unchanged_at_each_call() -> None:
    kinds = (nn.ReLU, nn.ReLU6)
    plain = nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU(inplace=True)).eval()
    assert direct_consumers(plain, (1, 8, 8), kinds) == {plain[0]: plain[1]}
    assert direct_consumers(Added().eval(), (1, 8, 8), kinds) == {}
    assert direct_consumers(Twice().eval(), (1, 8, 8), kinds) == {}


def test_an_activation_that_is_not_in_place_stays_by_itself() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()).eval()
    ready = pack_weights(SingleTypeNetwork(network, torch.float32), (2, SIDE, SIDE))
    assert isinstance(network[1], nn.ReLU)
    with torch.inference_mode():
        assert float(ready(films()).min()) == 0


def test_a_norm_that_follows_no_convolution_is_left_to_autocast() -> None:
    network = nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 2, 1)).eval()
    assert prepare(network, SIDE, torch.bfloat16) is network
    assert norms(network) == 1
    assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_the_most_probable_class_is_numpys(classes: int) -> None:
    scores = np.random.default_rng(0).integers(0, 4, (2, classes, 9, 7)).astype(np.float32)  # with ties
    found = most_probable(torch.from_numpy(scores))
    assert found.dtype == torch.uint8
    np.testing.assert_array_equal(found.numpy(), scores.argmax(1))

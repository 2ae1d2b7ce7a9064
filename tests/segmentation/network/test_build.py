from __future__ import annotations

import pytest
import torch

from covseg_ray.errors import ModelError
from covseg_ray.segmentation.network.build import build_network, channels_last, trainable_parameters


def test_the_default_network_has_the_size_it_is_known_for():
    assert trainable_parameters(build_network("unet", "resnet34", "none", 2)) == 24_436_514


@pytest.mark.parametrize("architecture", ["Unet", "FPN", "linknet"])
def test_gives_logits_for_each_class_and_pixel(architecture: str):
    network = build_network(architecture, "ResNet18", None, classes=3).eval()
    with torch.inference_mode():
        assert network(torch.zeros(2, 3, 64, 64)).shape == (2, 3, 64, 64)


def test_channels_last_changes_the_layout_alone():
    network = build_network("unet", "resnet18").eval()
    films = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        before = network(films)
        torch.testing.assert_close(channels_last(network)(films), before, rtol=1e-4, atol=1e-4)
    assert network.encoder.conv1.weight.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    ("architecture", "encoder", "message"),
    [
        ("unett", "resnet34", r"model\.architecture: unknown name 'unett'; nearest are unet"),
        ("unet", "resnet43", r"model\.encoder: unknown name 'resnet43'; nearest are .*resnet34"),
        ("unet", "tu-resnet43", r"model\.encoder: unknown name 'tu-resnet43'; nearest are .*tu-resnet"),
        ("unet", "tu-hf-hub:somebody/something", r"model\.encoder: unknown name 'tu-hf-hub:somebody/something'"),
        ("unet", "", r"model\.encoder: unknown name ''; see the list"),
        ("linknet", "mit_b0", r"linknet does not go with the encoder mit_b0"),
    ],
)
def test_unknown_names_get_the_nearest(architecture: str, encoder: str, message: str):
    with pytest.raises(ModelError, match=message) as caught:
        build_network(architecture, encoder)
    assert "\n" not in str(caught.value)

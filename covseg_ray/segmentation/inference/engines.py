"""Engines that compute a chunk of films on a CPU from one torch module: torch itself, OpenVINO or ONNX Runtime.

The module maps uint8 ``[N, S, S]`` films to uint8 arrays: preprocessing, network and decision.
OpenVINO and ONNX Runtime translate it when they are built, for one shape: :mod:`covseg_ray.segmentation.network.graph`.
On a GPU there is torch alone: :mod:`covseg_ray.segmentation.inference.cuda_graph`.
"""

from __future__ import annotations

import torch
from torch import nn

from covseg_ray.errors import UsageError
from covseg_ray.segmentation.network.build import channels_last
from covseg_ray.segmentation.network.graph import Forward, Shape, graph_forward, load, translate

ENGINES = ("auto", "torch", "openvino", "onnx")
_PACKAGES = {"torch": (), "openvino": ("openvino",), "onnx": ("onnx", "onnxscript", "onnxruntime")}


def require_engine(engine: str, device: str) -> None:
    """Raise UsageError for an engine that is not installed, or cannot compute on the device."""
    if engine != "torch" and torch.device(device).type != "cpu":
        raise UsageError(f"engine: {engine} computes on a CPU, not on {device}; choose torch or auto")
    for package in _PACKAGES[engine]:
        try:
            load(package)
        except ImportError as error:
            raise UsageError(
                f"engine: {engine} cannot be imported ({error}); pip install 'covseg-ray[{engine}]'"
            ) from error


def build_forward(engine: str, module: nn.Module, shape_NHW: Shape, threads: int | None, precision: str) -> Forward:
    """The module, in evaluation mode, as a function of films of one shape.

    Args:
        engine: ``torch``, ``openvino`` or ``onnx``.
        threads: of a CPU, 1 or more, for OpenVINO and ONNX Runtime; by default as many as torch has.
        precision: ``fp32`` or ``bf16``, for OpenVINO; torch has its own from the context that it is called in.
    """
    if engine == "torch":
        # The caller sets up inference mode and autocast around many chunks: each new context casts the weights anew.
        ready = channels_last(module)
        return lambda films_NHW: ready(torch.from_numpy(films_NHW)).numpy()
    return graph_forward(translate(engine, module, shape_NHW), threads or torch.get_num_threads(), precision)

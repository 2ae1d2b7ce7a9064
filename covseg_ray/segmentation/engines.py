"""What computes a chunk of films: torch anywhere, OpenVINO or ONNX Runtime on a CPU, all from the one torch module.

A module here goes from uint8 ``[N, S, S]`` films to uint8 arrays: preprocessing, network and the choice of the class.
OpenVINO and ONNX Runtime translate it when they are built, for one shape, and compute in float32.
"""

from __future__ import annotations

import importlib
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from covseg_ray.errors import UsageError
from covseg_ray.segmentation.network import channels_last

ENGINES = ("auto", "torch", "openvino", "onnx")
_PACKAGES = {"torch": (), "openvino": ("openvino",), "onnx": ("onnx", "onnxscript", "onnxruntime")}

Shape = tuple[int, int, int]
Forward = Callable[[NDArray[np.uint8]], NDArray[np.uint8]]  # films [N, S, S] of the one shape to what the module gives


def choose_engine(name: str = "auto", device: str = "cpu") -> str:
    """The engine that a name stands for on a device: ``torch``, ``openvino`` or ``onnx``.

    ``auto`` is torch everywhere: the same bytes must give the same mask on every way. Of the 61 million pixels of 932
    films the others, about 1.3 times as fast, each set 2 differently from torch in fp32, where its logits differed by
    less than 4e-6. Nor do they compute in bfloat16, which torch chooses by itself where the chip gains by it.

    Raises:
        UsageError: an unknown name, an engine that is not installed, or one that cannot compute on the device.
    """
    if name not in ENGINES:
        raise UsageError(f"engine: unknown {name!r}; choose one of {', '.join(ENGINES)}")
    engine = "torch" if name == "auto" else name
    if engine != "torch" and torch.device(device).type != "cpu":
        raise UsageError(f"engine: {engine} computes on a CPU, not on {device}; choose torch or auto")
    _require(engine)
    return engine


def build_forward(
    engine: str, module: nn.Module, shape_NHW: Shape, device: torch.device, threads: int | None
) -> Forward:
    """The module, in evaluation mode on the CPU, as a function of films of one shape.

    Args:
        engine: as :func:`choose_engine` returned it.
        threads: of a CPU, 1 or more; by default as many as torch has.
    """
    if engine == "torch":
        return torch_forward(module, device, threads)
    translate = {"openvino": openvino_forward, "onnx": onnx_forward}[engine]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of torch, about what torch.export itself calls
        return translate(module, shape_NHW, threads or torch.get_num_threads())


def torch_forward(module: nn.Module, device: torch.device, threads: int | None) -> Forward:
    """The module on its device; ``threads`` holds for all of this process's torch.

    The caller sets up ``inference_mode`` and ``autocast`` around many chunks: each new context casts the weights anew.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    ready = channels_last(module.to(device))

    def forward(films_NHW: NDArray[np.uint8]) -> NDArray[np.uint8]:
        given: NDArray[np.uint8] = ready(torch.from_numpy(films_NHW).to(device)).cpu().numpy()
        return given

    return forward


def openvino_forward(module: nn.Module, shape_NHW: Shape, threads: int) -> Forward:
    """The module translated for OpenVINO."""
    openvino = _load("openvino")
    model = openvino.convert_model(_graph(module, shape_NHW))
    settings = {
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": "f32",
        "NUM_STREAMS": 1,
        "ENABLE_CPU_PINNING": False,  # the actors of one machine would all pin their threads to the same cores
    }
    compiled = openvino.Core().compile_model(model, "CPU", settings)

    def forward(films_NHW: NDArray[np.uint8]) -> NDArray[np.uint8]:
        given: NDArray[np.uint8] = compiled.infer_new_request(films_NHW)[0]
        return given

    return forward


def onnx_forward(module: nn.Module, shape_NHW: Shape, threads: int) -> Forward:
    """The module translated for ONNX Runtime."""
    onnxruntime = _load("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        torch.onnx.export(_graph(module, shape_NHW), f=path, dynamo=True, verbose=False)
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    films_name = session.get_inputs()[0].name

    def forward(films_NHW: NDArray[np.uint8]) -> NDArray[np.uint8]:
        given: NDArray[np.uint8] = session.run(None, {films_name: films_NHW})[0]
        return given

    return forward


def _require(engine: str) -> None:
    for package in _PACKAGES[engine]:
        try:
            _load(package)
        except ImportError as error:
            raise UsageError(
                f"engine: {engine} cannot be imported ({error}); pip install 'covseg-ray[{engine}]'"
            ) from error


def _load(package: str) -> Any:
    """A package by name; OpenVINO without its telemetry, which would report to a server from the import on."""
    if package == "openvino":
        modules: dict[str, Any] = sys.modules
        modules.setdefault("openvino_telemetry", None)
    return importlib.import_module(package)


def _graph(module: nn.Module, shape_NHW: Shape) -> torch.export.ExportedProgram:
    return torch.export.export(module, (torch.zeros(shape_NHW, dtype=torch.uint8),), strict=False)

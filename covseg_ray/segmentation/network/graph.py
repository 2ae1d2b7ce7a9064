"""A network translated for OpenVINO or ONNX Runtime: its files, and a function that computes films with them.

Preprocessing, network and decision are one graph, for one shape of films: uint8 ``[N, S, S]``
to uint8 ``[N, 2, S, S]``, see :class:`covseg_ray.segmentation.network.decision.Decide`.
"""

from __future__ import annotations

import importlib
import sys
import tempfile
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

Shape = tuple[int, int, int]
Forward = Callable[[NDArray[np.uint8]], NDArray[np.uint8]]  # films [N, S, S] of one shape to the module's output

ONNX, XML, BIN = "model.onnx", "model.xml", "model.bin"
_HINTS = {"fp32": "f32", "bf16": "bf16"}


@dataclass(frozen=True)
class Graph:
    """``engine`` is ``openvino`` (``files`` are ``model.xml`` and ``model.bin``) or ``onnx`` (``model.onnx``)."""

    engine: str
    files: Mapping[str, bytes]


def translate(engine: str, module: nn.Module, shape_NHW: Shape) -> Graph:
    """The module, in evaluation mode on the CPU, for films of one shape, its weights in float32."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of torch, about what torch.export itself calls
        program = torch.export.export(module, (torch.zeros(shape_NHW, dtype=torch.uint8),), strict=False)
        if engine == "openvino":
            return openvino_graph(load("openvino").convert_model(program))
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, ONNX)
            torch.onnx.export(program, f=path, dynamo=True, verbose=False, external_data=False)
            return Graph(engine, {ONNX: path.read_bytes()})


def openvino_graph(model: Any) -> Graph:
    """OpenVINO's own model as files."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, XML)
        load("openvino").save_model(model, path, compress_to_fp16=False)
        return Graph("openvino", {name: Path(folder, name).read_bytes() for name in (XML, BIN)})


def openvino_model(graph: Graph) -> Any:
    """The files as OpenVINO's own model."""
    return load("openvino").Core().read_model(graph.files[XML], graph.files[BIN])


def graph_forward(graph: Graph, threads: int, precision: str) -> Forward:
    """A function that computes the graph on this CPU. OpenVINO computes float32 operations in ``precision``, ``fp32``
    or ``bf16``; ONNX Runtime in float32."""
    if graph.engine == "openvino":
        settings = {
            "INFERENCE_NUM_THREADS": threads,
            "INFERENCE_PRECISION_HINT": _HINTS[precision],
            "NUM_STREAMS": 1,
            "ENABLE_CPU_PINNING": False,  # the actors of one machine would all pin their threads to the same cores
        }
        compiled = load("openvino").Core().compile_model(openvino_model(graph), "CPU", settings)
        return lambda films_NHW: compiled.infer_new_request(films_NHW)[0]
    onnxruntime = load("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(graph.files[ONNX], options, providers=["CPUExecutionProvider"])
    films_name = session.get_inputs()[0].name
    return lambda films_NHW: session.run(None, {films_name: films_NHW})[0]


def load(package: str) -> Any:
    """A package by name; OpenVINO without its telemetry, which would report to a server from the import on."""
    if package in ("openvino", "nncf"):
        modules: dict[str, Any] = sys.modules
        modules.setdefault("openvino_telemetry", None)
    return importlib.import_module(package)

"""Films to masks with a bundle's model: the one prediction behind evaluation, bulk segmentation and the endpoint."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from covseg_ray.errors import ConfigError, UsageError
from covseg_ray.segmentation.inference.batchnorm_folding import lean
from covseg_ray.segmentation.inference.cuda_graph import Captured
from covseg_ray.segmentation.inference.engines import build_forward, choose_engine, named_engine
from covseg_ray.segmentation.inference.packed_weights import has_layouts, prepack
from covseg_ray.segmentation.network.bundle import Bundle
from covseg_ray.segmentation.network.decision import Decide, Rule, drop_small
from covseg_ray.segmentation.network.graph import Forward, graph_forward
from covseg_ray.segmentation.network.precision import autocast, autocast_dtype, knows_bf16
from covseg_ray.segmentation.network.preprocess import Preprocess

_CHUNK = {"cpu": 1, "cuda": 64}

# Starts on a chunk of films; what it gives back waits for their classes and, with 2 outputs, their probabilities.
Begin = Callable[[NDArray[np.uint8], int], Callable[[], NDArray[np.uint8]]]


class Predictor:
    """A model on a device, ready to predict.

    Films go through the network in chunks of one fixed size, the last filled up with black ones: kernels are chosen by
    shape, so a film's mask depends on neither its neighbours nor the number of films in a call.

    Args:
        bundle: the model.
        device: as torch names it, ``cpu`` or ``cuda:0``.
        precision: ``auto``, ``fp32``, ``bf16`` or ``fp16``; see :mod:`covseg_ray.segmentation.network.precision`.
            OpenVINO knows the first three, ONNX Runtime fp32 alone, and an 8-bit model, on OpenVINO, ``auto`` alone.
        chunk: films at once; by default 1 on a CPU, where more gain nothing, and 64 on a GPU. One film costs as much as
            a whole chunk.
        engine: ``auto``, ``torch``, ``openvino`` or ``onnx``; see :mod:`covseg_ray.segmentation.inference.engines`.
        threads: of a CPU; by default as many as torch has. With torch they hold for the whole process.

    Raises:
        ModelError: the bundle's tensors do not fit its network.
        ConfigError: the device or the engine cannot compute in that precision.
        UsageError: the engine is unknown, not installed, or not for that device.
    """

    def __init__(
        self,
        bundle: Bundle,
        device: str = "cpu",
        precision: str = "auto",
        chunk: int | None = None,
        engine: str = "auto",
        threads: int | None = None,
    ) -> None:
        self.spec = bundle.spec
        self.model_id = bundle.model_id
        self.device = torch.device(device)
        self.engine = choose_engine(engine_of(bundle, engine), device)
        self.precision = _checked_precision(bundle, self.engine, self.device, precision)
        self.chunk = 1 if bundle.graph else chunk or films_at_once(device)
        self._begin = self._build(bundle, threads)
        decision = bundle.spec.decision
        self._smallest_region = decision.smallest_region if isinstance(decision, Rule) else 0

    def _build(self, bundle: Bundle, threads: int | None) -> Begin:
        if bundle.graph is not None:
            rest = "fp32" if autocast_dtype(self.device) is None else "bf16"  # what is not in integers
            return _at_once(graph_forward(bundle.graph, threads or torch.get_num_threads(), rest))
        if self.engine == "torch" and threads is not None:
            torch.set_num_threads(threads)  # weights are laid out for so many
        side = self.spec.input_size
        shape_NHW = (self.chunk, side, side)
        if self.device.type == "cuda":
            module = films_to_classes(bundle, lean(bundle.network(), side, self._dtype()))
            return Captured(module, shape_NHW, len(self.spec.classes), self.device, self.precision).begin
        network = lean(bundle.network(), side, self._dtype(), joined=has_layouts())
        module = films_to_classes(bundle, prepack(network, shape_NHW) if self.engine == "torch" else network)
        return _at_once(build_forward(self.engine, module, shape_NHW, threads, self.precision))

    def _dtype(self) -> torch.dtype:
        """Of the network's weights; OpenVINO and ONNX Runtime take float32 and change it themselves."""
        found = autocast_dtype(self.device, self.precision) if self.engine == "torch" else None
        return found or torch.float32

    def predict(self, images_NHW: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Films uint8 ``[N, S, S]``, S the model's input size, to class indices uint8 ``[N, S, S]``.

        ``== spec.infection`` gives the infection mask. A tie goes to the class of the lower index.
        """
        return self._find(images_NHW, 1)[:, 0]

    def look(self, images_NHW: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """As :meth:`predict`, and beside the classes each pixel's probability of infection, uint8 ``[N, S, S]`` in
        255ths: before the bundle's rule is applied, after its mirror images are averaged in."""
        found_N2HW = self._find(images_NHW, 2)
        return np.ascontiguousarray(found_N2HW[:, 0]), found_N2HW[:, 1]

    def _find(self, images_NHW: NDArray[np.uint8], outputs: int) -> NDArray[np.uint8]:
        """One chunk is begun before the one before is waited for: a GPU has no time to rest."""
        size = self.spec.input_size
        if images_NHW.dtype != np.uint8 or images_NHW.shape[1:] != (size, size):
            raise ValueError(f"films must be uint8 [N, {size}, {size}], not {images_NHW.dtype} {images_NHW.shape}")
        found_NKHW = np.empty((len(images_NHW), outputs, size, size), dtype=np.uint8)
        under_way: deque[tuple[NDArray[np.uint8], Callable[[], NDArray[np.uint8]]]] = deque()
        with torch.inference_mode(), self._autocast():
            for start in range(0, len(images_NHW), self.chunk):
                part = slice(start, start + self.chunk)
                under_way.append((found_NKHW[part], self._begin(self._filled(images_NHW[part]), outputs)))
                if len(under_way) > 1:
                    self._finish(*under_way.popleft())
            while under_way:
                self._finish(*under_way.popleft())
        return found_NKHW

    def _finish(self, found_NKHW: NDArray[np.uint8], wait: Callable[[], NDArray[np.uint8]]) -> None:
        found_NKHW[:] = wait()[: len(found_NKHW), : found_NKHW.shape[1]]
        drop_small(found_NKHW[:, 0], self.spec.infection, self.spec.beneath, self._smallest_region)

    def _autocast(self) -> torch.autocast:
        return autocast(self.device, self.precision if self.engine == "torch" else "fp32")

    def _filled(self, part_NHW: NDArray[np.uint8]) -> NDArray[np.uint8]:
        chunk_NHW = np.zeros((self.chunk, *part_NHW.shape[1:]), dtype=np.uint8)
        chunk_NHW[: len(part_NHW)] = part_NHW
        return chunk_NHW


def _at_once(forward: Forward) -> Begin:
    """What computes on the CPU: when it is waited for."""
    return lambda films_NHW, outputs: partial(forward, films_NHW)


def device_here() -> str:
    """What a predictor computes on where nobody chose, as torch names it: the GPU, where there is one."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def device_for(bundle: Bundle, engine: str, gpu: bool) -> str:
    """What a model computes on where nobody chose: the GPU, where there is one and its engine is torch."""
    return "cuda" if gpu and engine_of(bundle, engine) == "torch" else "cpu"


def predictor_here(bundle: Bundle, engine: str, precision: str = "auto", threads: int | None = None) -> Predictor:
    """A predictor on the device that its engine would have on this machine."""
    device = device_for(bundle, engine, torch.cuda.is_available())
    return Predictor(bundle, device, precision, engine=engine, threads=threads)


def films_at_once(device: str) -> int:
    """How many films a predictor on a device takes through its network at once, when not told."""
    return _CHUNK[torch.device(device).type]


def films_to_classes(bundle: Bundle, network: nn.Module | None = None) -> nn.Module:
    """The whole way from uint8 films ``[N, S, S]`` to what ``Decide`` gives of them, in evaluation mode; through the
    bundle's network, or what was made of it."""
    spec = bundle.spec
    decide = Decide(network or bundle.network(), spec.decision, len(spec.classes), spec.infection)
    return nn.Sequential(Preprocess(spec.normalisation.mean, spec.normalisation.std), decide).eval()


def engine_of(bundle: Bundle, engine: str) -> str:
    """Which engine computes a model: by name, or where that is ``auto`` by the model, installed here or not.

    Raises:
        UsageError: an unknown name, or an 8-bit model would have to compute with another engine than its own.
    """
    if bundle.graph is None:
        return named_engine(engine)
    if engine not in ("auto", bundle.graph.engine):
        raise UsageError(
            f"engine: this 8-bit model computes with {bundle.graph.engine}, not with {engine}; choose auto, or the "
            "model that it was exported from"
        )
    return bundle.graph.engine


def _checked_precision(bundle: Bundle, engine: str, device: torch.device, precision: str) -> str:
    dtype = autocast_dtype(device, precision)
    if bundle.graph is not None:
        if precision != "auto":
            raise ConfigError(f"precision: an 8-bit model computes in int8, not in {precision}; choose auto")
        return "int8"
    if engine == "onnx" and precision not in ("auto", "fp32"):
        raise ConfigError(f"precision: {engine} computes in fp32, not in {precision}; choose auto or fp32")
    if precision == "bf16" and not knows_bf16(device):
        raise ConfigError("precision: this CPU has no instructions for bf16; choose auto or fp32")
    if engine == "torch":
        return precision
    return "bf16" if engine == "openvino" and dtype else "fp32"

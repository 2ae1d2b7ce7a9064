"""Predict masks of films with a bundle's model, for evaluation, bulk segmentation and the endpoint alike."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from covseg_ray.errors import ConfigError, UsageError
from covseg_ray.segmentation.inference.batchnorm_folding import prepare
from covseg_ray.segmentation.inference.cuda_graph import CudaGraphModel
from covseg_ray.segmentation.inference.engines import ENGINES, build_forward, require_engine
from covseg_ray.segmentation.inference.expected_iou import agreement, expected_iou
from covseg_ray.segmentation.inference.packed_weights import has_onednn_layouts, pack_weights
from covseg_ray.segmentation.network.bundle import Bundle
from covseg_ray.segmentation.network.decision import Decide, Rule, remove_small_regions
from covseg_ray.segmentation.network.graph import Forward, graph_forward
from covseg_ray.segmentation.network.precision import autocast, autocast_dtype, knows_bf16
from covseg_ray.segmentation.network.preprocess import Preprocess

_DEFAULT_CHUNK = {"cpu": 1, "cuda": 64}

# Starts a chunk of films; the function returned waits for their classes and, with 2 outputs, their probabilities.
Start = Callable[[NDArray[np.uint8], int], Callable[[], NDArray[np.uint8]]]


class BatchPredictor:
    """A model on a device: batches of films at the model's input size to classes and probabilities.

    Films go through the network in chunks of one fixed size, the last padded with black films: kernels are chosen by
    shape, so a film's mask depends neither on its neighbours nor on the number of films in a call.

    Args:
        bundle: the model.
        device: as torch names it, ``cpu`` or ``cuda:0``.
        precision: ``auto``, ``fp32``, ``bf16`` or ``fp16``; see :mod:`covseg_ray.segmentation.network.precision`.
            OpenVINO knows the first three, ONNX Runtime fp32 alone, and an 8-bit model, on OpenVINO, ``auto`` alone.
        chunk: films per forward pass; by default 1 on a CPU, where more gain nothing, and 64 on a GPU. One film costs
            as much as a whole chunk.
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
        self.engine = engine_of(bundle, engine)
        require_engine(self.engine, device)
        self.precision = _checked_precision(bundle, self.engine, self.device, precision)
        self.chunk = 1 if bundle.graph else chunk or default_chunk(device)
        self._start = self._build(bundle, threads)
        decision = bundle.spec.decision
        self._smallest_region = decision.smallest_region if isinstance(decision, Rule) else 0

    def _build(self, bundle: Bundle, threads: int | None) -> Start:
        if bundle.graph is not None:
            float_precision = "fp32" if autocast_dtype(self.device) is None else "bf16"
            return _on_wait(graph_forward(bundle.graph, threads or torch.get_num_threads(), float_precision))
        if self.engine == "torch" and threads is not None:
            torch.set_num_threads(threads)  # weights are laid out for so many
        side = self.spec.input_size
        shape_NHW = (self.chunk, side, side)
        if self.device.type == "cuda":
            module = films_to_classes(bundle, prepare(bundle.network(), side, self._dtype()))
            return CudaGraphModel(module, shape_NHW, self.device, self.precision).start
        network = prepare(bundle.network(), side, self._dtype(), fuse_decoder=has_onednn_layouts())
        module = films_to_classes(bundle, pack_weights(network, shape_NHW) if self.engine == "torch" else network)
        return _on_wait(build_forward(self.engine, module, shape_NHW, threads, self.precision))

    def _dtype(self) -> torch.dtype:
        """Of the network's weights; OpenVINO and ONNX Runtime take float32 and change it themselves."""
        found = autocast_dtype(self.device, self.precision) if self.engine == "torch" else None
        return found or torch.float32

    def predict(self, images_NHW: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Class indices uint8 ``[N, S, S]`` of films uint8 ``[N, S, S]``, S the model's input size.

        ``== spec.infection`` gives the infection mask. A tie goes to the class of the lower index.

        Raises:
            ValueError: films of another type or size.
        """
        return self._run(images_NHW, 1)[:, 0]

    def predict_probabilities(self, images_NHW: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Classes as :meth:`predict` gives them, and each pixel's probability of infection, uint8 ``[N, S, S]`` in
        255ths: before the bundle's rule is applied, averaged over the mirror image where that rule says so."""
        output_N2HW = self._run(images_NHW, 2)
        return np.ascontiguousarray(output_N2HW[:, 0]), output_N2HW[:, 1]

    def predict_with_expected_iou(
        self, images_NHW: NDArray[np.uint8]
    ) -> tuple[NDArray[np.uint8], Sequence[float | None]]:
        """Classes as :meth:`predict` gives them, and each film's expected IoU: None where the bundle has no curve for
        it."""
        curve = self.spec.expected_iou
        if not curve:
            return self.predict(images_NHW), [None] * len(images_NHW)
        classes_NHW, agreement_N = np.empty_like(images_NHW, np.uint8), np.empty(len(images_NHW))
        for part, output_N2HW in self._chunks(images_NHW, 2):
            classes_NHW[part] = output_N2HW[:, 0]
            agreement_N[part] = agreement(output_N2HW[:, 1], output_N2HW[:, 0] == self.spec.infection)
        return classes_NHW, expected_iou(curve, agreement_N).tolist()

    def _run(self, images_NHW: NDArray[np.uint8], outputs: int) -> NDArray[np.uint8]:
        size = self.spec.input_size
        output_NKHW = np.empty((len(images_NHW), outputs, size, size), dtype=np.uint8)
        for part, chunk_NKHW in self._chunks(images_NHW, outputs):
            output_NKHW[part] = chunk_NKHW
        return output_NKHW

    def _chunks(self, images_NHW: NDArray[np.uint8], outputs: int) -> Iterator[tuple[slice, NDArray[np.uint8]]]:
        """The place of each chunk, and its output: uint8 ``[N, outputs, S, S]``, with small regions removed. Each chunk
        is started before the previous one is waited for, so that a GPU is never idle."""
        size = self.spec.input_size
        if images_NHW.dtype != np.uint8 or images_NHW.shape[1:] != (size, size):
            raise ValueError(f"films must be uint8 [N, {size}, {size}], not {images_NHW.dtype} {images_NHW.shape}")
        in_flight: deque[tuple[slice, Callable[[], NDArray[np.uint8]]]] = deque()
        with torch.inference_mode(), autocast(self.device, self.precision if self.engine == "torch" else "fp32"):
            for start in range(0, len(images_NHW), self.chunk):
                part = slice(start, min(start + self.chunk, len(images_NHW)))
                in_flight.append((part, self._start(self._padded(images_NHW[part]), outputs)))
                if len(in_flight) > 1:
                    yield self._finished(*in_flight.popleft(), outputs)
            while in_flight:
                yield self._finished(*in_flight.popleft(), outputs)

    def _finished(
        self, part: slice, wait: Callable[[], NDArray[np.uint8]], outputs: int
    ) -> tuple[slice, NDArray[np.uint8]]:
        output_NKHW = wait()[: part.stop - part.start, :outputs]
        remove_small_regions(output_NKHW[:, 0], self.spec.infection, self.spec.fallback_class, self._smallest_region)
        return part, output_NKHW

    def _padded(self, part_NHW: NDArray[np.uint8]) -> NDArray[np.uint8]:
        chunk_NHW = np.zeros((self.chunk, *part_NHW.shape[1:]), dtype=np.uint8)
        chunk_NHW[: len(part_NHW)] = part_NHW
        return chunk_NHW


def _on_wait(forward: Forward) -> Start:
    """A computation on the CPU, which runs when it is waited for."""
    return lambda films_NHW, outputs: partial(forward, films_NHW)


def local_device() -> str:
    """The default device, as torch names it: the GPU where there is one."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def device_for(bundle: Bundle, engine: str, gpu: bool) -> str:
    """The default device of a model: the GPU where there is one and its engine is torch."""
    return "cuda" if gpu and engine_of(bundle, engine) == "torch" else "cpu"


def local_predictor(bundle: Bundle, engine: str, precision: str = "auto", threads: int | None = None) -> BatchPredictor:
    """A predictor on the default device of its engine on this machine."""
    device = device_for(bundle, engine, torch.cuda.is_available())
    return BatchPredictor(bundle, device, precision, engine=engine, threads=threads)


def default_chunk(device: str) -> int:
    """Films per forward pass on a device where no chunk is given."""
    return _DEFAULT_CHUNK[torch.device(device).type]


def films_to_classes(bundle: Bundle, network: nn.Module | None = None) -> nn.Module:
    """From uint8 films ``[N, S, S]`` to the output of ``Decide``, in evaluation mode: preprocessing, the network (the
    bundle's by default), decision."""
    spec = bundle.spec
    decide = Decide(network or bundle.network(), spec.decision, len(spec.classes), spec.infection)
    return nn.Sequential(Preprocess(spec.normalisation.mean, spec.normalisation.std), decide).eval()


def engine_of(bundle: Bundle, engine: str) -> str:
    """The engine that computes a model: the one named, or for ``auto`` the model's own; installed here or not.

    That is torch for all but 8-bit models: the same bytes must give the same mask everywhere, also on nodes without the
    other packages. Of the 61 million pixels of 932 films the others in fp32 each set 2 differently from torch.

    Raises:
        UsageError: an unknown name, or another engine than an 8-bit model's own.
    """
    if bundle.graph is None:
        if engine not in ENGINES:
            raise UsageError(f"engine: unknown {engine!r}; choose one of {', '.join(ENGINES)}")
        return "torch" if engine == "auto" else engine
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

"""Films to masks with a bundle's model: the one prediction behind evaluation, bulk segmentation and the endpoint."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from covseg_ray.errors import ConfigError
from covseg_ray.segmentation.bundle import Bundle
from covseg_ray.segmentation.decision import Decide, Rule, drop_small
from covseg_ray.segmentation.engines import build_forward, choose_engine
from covseg_ray.segmentation.precision import autocast, autocast_dtype
from covseg_ray.segmentation.preprocess import Preprocess

_CHUNK = {"cpu": 1, "cuda": 64}


class Predictor:
    """A model on a device, ready to predict.

    Films go through the network in chunks of one fixed size, the last filled up with black ones: kernels are chosen by
    shape, so a film's mask depends on neither its neighbours nor the number of films in a call.

    Args:
        bundle: the model.
        device: as torch names it, ``cpu`` or ``cuda:0``.
        precision: ``auto``, ``fp32``, ``bf16`` or ``fp16``; see :mod:`covseg_ray.segmentation.precision`. OpenVINO and
            ONNX Runtime know fp32 alone.
        chunk: films at once; by default 1 on a CPU, where more gain nothing, and 64 on a GPU. One film costs as much as
            a whole chunk.
        engine: ``auto``, ``torch``, ``openvino`` or ``onnx``; see :mod:`covseg_ray.segmentation.engines`.
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
        self.engine = choose_engine(engine, device)
        self.precision = _checked_precision(self.engine, self.device, precision)
        self.chunk = chunk or films_at_once(device)
        shape_NHW = (self.chunk, self.spec.input_size, self.spec.input_size)
        self._forward = build_forward(self.engine, _films_to_classes(bundle), shape_NHW, self.device, threads)
        decision = bundle.spec.decision
        self._smallest_region = decision.smallest_region if isinstance(decision, Rule) else 0

    def predict(self, images_NHW: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Films uint8 ``[N, S, S]``, S the model's input size, to class indices uint8 ``[N, S, S]``.

        ``== spec.infection`` gives the infection mask. A tie goes to the class of the lower index.
        """
        return self.look(images_NHW)[0]

    def look(self, images_NHW: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """As :meth:`predict`, and beside the classes each pixel's probability of infection, uint8 ``[N, S, S]`` in
        255ths: before the bundle's rule is applied, after its mirror images are averaged in."""
        size = self.spec.input_size
        if images_NHW.dtype != np.uint8 or images_NHW.shape[1:] != (size, size):
            raise ValueError(f"films must be uint8 [N, {size}, {size}], not {images_NHW.dtype} {images_NHW.shape}")
        found_N2HW = np.empty((len(images_NHW), 2, size, size), dtype=np.uint8)
        with torch.inference_mode(), autocast(self.device, self.precision):
            for start in range(0, len(images_NHW), self.chunk):
                part_NHW = images_NHW[start : start + self.chunk]
                found_N2HW[start : start + self.chunk] = self._look_at_chunk(part_NHW)[: len(part_NHW)]
        classes_NHW = np.ascontiguousarray(found_N2HW[:, 0])
        drop_small(classes_NHW, self.spec.infection, self.spec.beneath, self._smallest_region)
        return classes_NHW, found_N2HW[:, 1]

    def _look_at_chunk(self, part_NHW: NDArray[np.uint8]) -> NDArray[np.uint8]:
        chunk_NHW = np.zeros((self.chunk, *part_NHW.shape[1:]), dtype=np.uint8)
        chunk_NHW[: len(part_NHW)] = part_NHW
        return self._forward(chunk_NHW)


def films_at_once(device: str) -> int:
    """How many films a predictor on a device takes through its network at once, when not told."""
    return _CHUNK[torch.device(device).type]


def _films_to_classes(bundle: Bundle) -> nn.Module:
    spec = bundle.spec
    decide = Decide(bundle.network(), spec.decision, len(spec.classes), spec.infection)
    return nn.Sequential(Preprocess(spec.normalisation.mean, spec.normalisation.std), decide).eval()


def _checked_precision(engine: str, device: torch.device, precision: str) -> str:
    autocast_dtype(device, precision)
    if engine == "torch":
        return precision
    if precision not in ("auto", "fp32"):
        raise ConfigError(f"precision: {engine} computes in fp32, not in {precision}; choose auto or fp32")
    return "fp32"

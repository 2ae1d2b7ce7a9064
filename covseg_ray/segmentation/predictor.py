"""Films to masks with a bundle's model: the one prediction behind evaluation, bulk segmentation and the endpoint."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from covseg_ray.segmentation.bundle import Bundle
from covseg_ray.segmentation.network import channels_last
from covseg_ray.segmentation.precision import autocast, autocast_dtype
from covseg_ray.segmentation.preprocess import Preprocess

_CHUNK = {"cpu": 8, "cuda": 64}


class Predictor:
    """A model on a device, ready to predict.

    Films go through the network in chunks of one fixed size, the last filled up with black ones: kernels are chosen by
    shape, so a film's mask depends on neither its neighbours nor the number of films in a call.

    Args:
        bundle: the model.
        device: as torch names it, ``cpu`` or ``cuda:0``.
        precision: ``auto``, ``fp32``, ``bf16`` or ``fp16``; see :mod:`covseg_ray.segmentation.precision`.
        chunk: films at once; by default 8 on a CPU and 64 on a GPU. One film costs as much as a whole chunk.

    Raises:
        ModelError: the bundle's tensors do not fit its network.
        ConfigError: the device cannot compute in that precision.
    """

    def __init__(self, bundle: Bundle, device: str = "cpu", precision: str = "auto", chunk: int | None = None) -> None:
        self.spec = bundle.spec
        self.model_id = bundle.model_id
        self.device = torch.device(device)
        self.precision = precision
        self.chunk = chunk or _CHUNK.get(self.device.type, 8)
        autocast_dtype(self.device, precision)
        normalisation = bundle.spec.normalisation
        preprocess = Preprocess(normalisation.mean, normalisation.std)
        network = torch.nn.Sequential(preprocess, bundle.network()).eval()
        self._network = channels_last(network.to(self.device))

    def predict(self, images_NHW: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Films uint8 ``[N, S, S]``, S the model's input size, to class indices uint8 ``[N, S, S]``.

        ``== spec.infection`` gives the infection mask. A tie goes to the class of the lower index.
        """
        size = self.spec.input_size
        if images_NHW.dtype != np.uint8 or images_NHW.shape[1:] != (size, size):
            raise ValueError(f"films must be uint8 [N, {size}, {size}], not {images_NHW.dtype} {images_NHW.shape}")
        classes_NHW = np.empty(images_NHW.shape, dtype=np.uint8)
        with torch.inference_mode(), autocast(self.device, self.precision):
            for start in range(0, len(images_NHW), self.chunk):
                part_NHW = images_NHW[start : start + self.chunk]
                classes_NHW[start : start + self.chunk] = self._predict_chunk(part_NHW)[: len(part_NHW)]
        return classes_NHW

    def _predict_chunk(self, part_NHW: NDArray[np.uint8]) -> NDArray[np.uint8]:
        chunk_NHW = np.zeros((self.chunk, *part_NHW.shape[1:]), dtype=np.uint8)
        chunk_NHW[: len(part_NHW)] = part_NHW
        logits_NCHW = self._network(torch.from_numpy(chunk_NHW).to(self.device))
        classes: NDArray[np.uint8] = logits_NCHW.argmax(dim=1).to(torch.uint8).cpu().numpy()
        return classes

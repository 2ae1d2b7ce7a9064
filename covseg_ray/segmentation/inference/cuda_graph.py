"""A model on a GPU for films of one shape, captured as a CUDA graph: a chunk costs one launch instead of hundreds."""

from __future__ import annotations

from collections.abc import Callable
from itertools import cycle

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from covseg_ray.segmentation.network.build import channels_last
from covseg_ray.segmentation.network.precision import autocast

WARM_UPS = 3  # cuDNN chooses its kernels, and they take their memory, before a capture


class CudaGraphModel:
    """The module of :func:`covseg_ray.segmentation.inference.predictor.films_to_classes` on a GPU.

    Films are copied to the GPU as uint8 from pinned memory, classes and probabilities back as uint8. Two chunks may be
    in flight: while the GPU computes one, the CPU takes the results of the one before. Not thread-safe.
    """

    def __init__(
        self, module: nn.Module, shape_NHW: tuple[int, int, int], device: torch.device, precision: str
    ) -> None:
        module = channels_last(module.to(device))
        self._stream: torch.cuda.Stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._films_NHW = torch.zeros(shape_NHW, dtype=torch.uint8, device=device)
        self._graph = torch.cuda.CUDAGraph()
        self._stream.wait_stream(torch.cuda.current_stream(device))
        # Without autocast's cache: weights cast before the capture would be gone when it is replayed.
        with (
            torch.cuda.device(device),
            torch.inference_mode(),
            autocast(device, precision, cache=False),
        ):
            with torch.cuda.stream(self._stream):
                for _ in range(WARM_UPS):
                    self._compute(module)
            with torch.cuda.graph(self._graph, stream=self._stream, capture_error_mode="thread_local"):
                self._classes_NHW, self._probabilities_NHW = self._compute(module)
        self._slots = cycle([_Slot(self._films_NHW) for _ in range(2)])

    def _compute(self, module: nn.Module) -> tuple[Tensor, Tensor]:
        found_N2HW = module(self._films_NHW)
        return found_N2HW[:, 0].contiguous(), found_N2HW[:, 1].contiguous()

    def start(self, films_NHW: NDArray[np.uint8], outputs: int) -> Callable[[], NDArray[np.uint8]]:
        """Start a chunk. The returned function waits for its classes, and with 2 ``outputs`` for its probabilities:
        uint8 ``[N, outputs, S, S]``. Call it before the next but one chunk is started."""
        slot = next(self._slots)
        slot.films_NHW.numpy()[:] = films_NHW
        with torch.inference_mode(), torch.cuda.stream(self._stream):
            self._films_NHW.copy_(slot.films_NHW, non_blocking=True)
            self._graph.replay()
            slot.classes_NHW.copy_(self._classes_NHW, non_blocking=True)
            if outputs > 1:
                slot.probabilities_NHW.copy_(self._probabilities_NHW, non_blocking=True)
            slot.done.record(self._stream)

        def wait() -> NDArray[np.uint8]:
            slot.done.synchronize()
            return np.stack([slot.classes_NHW.numpy(), slot.probabilities_NHW.numpy()][:outputs], axis=1)

        return wait


class _Slot:
    """Pinned memory of one chunk in flight; every tensor has the shape of its films."""

    def __init__(self, like_NHW: Tensor) -> None:
        self.films_NHW = torch.empty(like_NHW.shape, dtype=torch.uint8, pin_memory=True)
        self.classes_NHW = torch.empty(like_NHW.shape, dtype=torch.uint8, pin_memory=True)
        self.probabilities_NHW = torch.empty(like_NHW.shape, dtype=torch.uint8, pin_memory=True)
        self.done: torch.cuda.Event = torch.cuda.Event()  # type: ignore[no-untyped-call]

"""A model on a GPU for films of one shape, captured as a CUDA graph: a chunk costs one launch instead of hundreds."""

from __future__ import annotations

from collections.abc import Callable
from itertools import cycle

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from covseg_ray.segmentation.inference.bit_planes import bits, pack, unpack
from covseg_ray.segmentation.network.build import channels_last
from covseg_ray.segmentation.network.precision import autocast

WARM_UPS = 3  # cuDNN chooses its kernels, and they take their memory, before a capture


class Captured:
    """The module of :func:`covseg_ray.segmentation.inference.predictor.films_to_classes` on a GPU.

    Films go there in uint8 from pinned memory; classes come back as bit planes. Two chunks may be under way: while the
    GPU computes one, the CPU unpacks the one before. Not for more than one thread at a time.
    """

    def __init__(
        self, module: nn.Module, shape_NHW: tuple[int, int, int], classes: int, device: torch.device, precision: str
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
                    self._compute(module, classes)
            with torch.cuda.graph(self._graph, stream=self._stream, capture_error_mode="thread_local"):
                self._packed_NPHB, self._probabilities_NHW = self._compute(module, classes)
        self._slots = cycle([_Slot(self._films_NHW, self._packed_NPHB, self._probabilities_NHW) for _ in range(2)])

    def _compute(self, module: nn.Module, classes: int) -> tuple[Tensor, Tensor]:
        found_N2HW = module(self._films_NHW)
        return pack(found_N2HW[:, 0], bits(classes)), found_N2HW[:, 1].contiguous()

    def begin(self, films_NHW: NDArray[np.uint8], outputs: int) -> Callable[[], NDArray[np.uint8]]:
        """Send a chunk off; the function given back waits for its classes, and with 2 ``outputs`` for its
        probabilities: uint8 ``[N, outputs, S, S]``. It must be called before the next but one chunk is begun."""
        slot = next(self._slots)
        slot.films_NHW.numpy()[:] = films_NHW
        with torch.inference_mode(), torch.cuda.stream(self._stream):
            self._films_NHW.copy_(slot.films_NHW, non_blocking=True)
            self._graph.replay()
            slot.packed_NPHB.copy_(self._packed_NPHB, non_blocking=True)
            if outputs > 1:
                slot.probabilities_NHW.copy_(self._probabilities_NHW, non_blocking=True)
            slot.done.record(self._stream)

        def finish() -> NDArray[np.uint8]:
            slot.done.synchronize()
            classes_NHW = unpack(slot.packed_NPHB.numpy())
            return np.stack([classes_NHW, slot.probabilities_NHW.numpy()][:outputs], axis=1)

        return finish


class _Slot:
    """Pinned memory of one chunk under way."""

    def __init__(self, films_NHW: Tensor, packed_NPHB: Tensor, probabilities_NHW: Tensor) -> None:
        self.films_NHW = torch.empty(films_NHW.shape, dtype=torch.uint8, pin_memory=True)
        self.packed_NPHB = torch.empty(packed_NPHB.shape, dtype=torch.uint8, pin_memory=True)
        self.probabilities_NHW = torch.empty(probabilities_NHW.shape, dtype=torch.uint8, pin_memory=True)
        self.done: torch.cuda.Event = torch.cuda.Event()  # type: ignore[no-untyped-call]

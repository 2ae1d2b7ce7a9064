"""Class indices as bit planes: what has to come back from a device is a bit or two a pixel, not a byte."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def bits(classes: int) -> int:
    """How many planes tell so many classes apart."""
    return max(1, (classes - 1).bit_length())


def pack(classes_NHW: Tensor, planes: int) -> Tensor:
    """uint8 ``[N, H, W]``, W a multiple of 8, to uint8 ``[N, planes, H, W / 8]``: plane p has the bits of value 2^p,
    eight pixels a byte, the first pixel in the highest bit (NumPy's ``packbits``)."""
    values_P = 2 ** torch.arange(planes, dtype=torch.uint8, device=classes_NHW.device)
    weights_8 = 2 ** torch.arange(7, -1, -1, dtype=torch.uint8, device=classes_NHW.device)
    set_NPHW = classes_NHW.unsqueeze(1).bitwise_and(values_P[:, None, None]).ne(0)
    bytes_NPHB8 = set_NPHW.reshape(*set_NPHW.shape[:3], -1, 8)
    return (bytes_NPHB8 * weights_8).sum(4, dtype=torch.uint8)


def unpack(packed_NPHB: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The way back: uint8 ``[N, H, W]``."""
    set_NPHW = np.unpackbits(packed_NPHB, axis=3)
    classes_NHW = np.ascontiguousarray(set_NPHW[:, 0])
    for plane in range(1, set_NPHW.shape[1]):
        classes_NHW |= set_NPHW[:, plane] << plane
    return classes_NHW

"""Reduction, blur and JPEG compression of square films as operations on tensors, on any device, each film with its own
parameters.

A matrix is applied to rows and columns alike: matrix @ film @ matrix transposed.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

FILTERS = {"box": 0.5, "bilinear": 1.0, "bicubic": 2.0, "lanczos": 3.0}  # and the distance from which on they are 0
BLOCK = 8
# Luminance quantisation of ITU-T T.81 (JPEG), table K.1.
_QUANTISATION = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)


def resampling(before_N: Tensor, after_N: Tensor, name: str, side: int) -> Tensor:
    """float32 ``[N, side, side]``: matrices that resample ``before`` pixels to ``after``, both at most ``side``.

    As Pillow's ``resize`` does it by the filter of that name, of FILTERS, stretched by the factor of a reduction. Rows
    from ``after`` on repeat the last one, columns from ``before`` on are 0.
    """
    to_S1, from_1S = torch.arange(side, device=before_N.device).view(-1, 1), torch.arange(side, device=before_N.device)
    before_N11, after_N11, support = before_N[:, None, None], after_N[:, None, None], FILTERS[name]
    scale_N11 = before_N11 / after_N11
    centres_NS1 = (torch.minimum(to_S1, after_N11 - 1) + 0.5) * scale_N11
    distances_NSS = (from_1S + 0.5 - centres_NS1) / scale_N11.clamp(min=1.0)
    inside_NSS = (distances_NSS > -support) & (distances_NSS <= support) & (from_1S < before_N11)
    weights_NSS = torch.where(inside_NSS, _weight(name, distances_NSS), 0.0)
    return weights_NSS / weights_NSS.sum(2, keepdim=True)


def _weight(name: str, distances: Tensor) -> Tensor:
    """A filter's weight by the distance in pixels, within its support; bicubic is Keys 1981 with a = -1/2."""
    x = distances.abs()
    if name == "box":
        return torch.ones_like(x)
    if name == "bilinear":
        return 1 - x
    if name == "bicubic":
        return torch.where(x < 1, (1.5 * x - 2.5) * x * x + 1, ((-0.5 * x + 2.5) * x - 4) * x + 2)
    lanczos: Tensor = torch.special.sinc(x) * torch.special.sinc(x / 3)
    return lanczos


def blurring(sigmas_N: Tensor, side: int, most: float) -> Tensor:
    """float32 ``[N, side, side]``: matrices of a Gaussian blur by standard deviations of 0 to ``most`` pixels; beyond
    the edge the last pixel goes on."""
    reach = math.ceil(4 * most)
    at_P = torch.arange(-reach, side + reach, device=sigmas_N.device)
    distances_SP = at_P - torch.arange(side, device=sigmas_N.device)[:, None]
    weights_NSP = torch.exp(-(distances_SP**2) / (2 * sigmas_N.clamp(min=0.05)[:, None, None] ** 2))
    weights_NSP = torch.where(distances_SP.abs() <= reach, weights_NSP, 0.0)
    matrix_NSS = weights_NSP[:, :, reach : reach + side].clone()
    matrix_NSS[:, :, 0] += weights_NSP[:, :, :reach].sum(2)
    matrix_NSS[:, :, -1] += weights_NSP[:, :, reach + side :].sum(2)
    return matrix_NSS / matrix_NSS.sum(2, keepdim=True)


def jpeg(films_NHW: Tensor, qualities_N: Tensor) -> Tensor:
    """Films float ``[N, H, W]`` in 0 to 255 as JPEG gives them back (ITU-T T.81), each at its quality, an integer of 1
    to 100 on libjpeg's scale; sides that are no multiple of 8 are extended by their last pixel for it."""
    height, width = films_NHW.shape[1:]
    down, right = -height % BLOCK, -width % BLOCK
    padded_NHW = F.pad(films_NHW[:, None], (0, right, 0, down), mode="replicate")[:, 0]
    scales_N = torch.where(qualities_N < 50, 5000 // qualities_N, 200 - 2 * qualities_N)
    base_88 = torch.tensor(_QUANTISATION).to(films_NHW.device, non_blocking=True)
    tables_N88 = ((base_88 * scales_N[:, None, None] + 50) // 100).clamp(1, 255)[:, None, :, None]
    cosines_88 = _cosines().to(films_NHW.device, non_blocking=True)
    levels_NR8C8 = (_by_blocks(padded_NHW.round() - 128, cosines_88) / tables_N88).round()
    restored_NR8C8 = _by_blocks((levels_NR8C8 * tables_N88).view_as(padded_NHW), cosines_88.T)
    return (restored_NR8C8.view_as(padded_NHW)[:, :height, :width] + 128).round().clamp(0, 255)


def _by_blocks(films_NHW: Tensor, matrix_88: Tensor) -> Tensor:
    """matrix @ block @ matrix transposed of each block of 8 x 8 pixels: ``[N, R, 8, C, 8]`` of rows and columns of
    blocks. As few large products, not as many small ones."""
    count, height, width = films_NHW.shape
    rows_NR8W = matrix_88 @ films_NHW.view(count, height // BLOCK, BLOCK, width)
    blocks_NR8C8 = rows_NR8W.view(count, height // BLOCK, BLOCK, width // BLOCK, BLOCK)
    return blocks_NR8C8 @ matrix_88.T


def _cosines() -> Tensor:
    """The orthonormal cosine transform of 8 samples."""
    n = torch.arange(BLOCK, dtype=torch.float64)
    matrix_88 = torch.cos(math.pi * (2 * n + 1) * n[:, None] / (2 * BLOCK)) * math.sqrt(2 / BLOCK)
    matrix_88[0] /= math.sqrt(2)
    return matrix_88.float()

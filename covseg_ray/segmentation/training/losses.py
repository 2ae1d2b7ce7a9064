"""Losses by name, from logits float ``[N, C, H, W]`` and class indices int64 ``[N, H, W]`` to one number.

In the formulas p are softmax probabilities and y the one-hot targets, both ``[N, C, H, W]``. Everything is computed in
float32, whatever the precision of the logits.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from covseg_ray.segmentation.network.decision import MAX_LEVEL
from covseg_ray.segmentation.network.torchvision_operators import smp
from covseg_ray.segmentation.training.targets import UNKNOWN

Loss = Callable[[Tensor, Tensor], Tensor]

_IMPOSSIBLE = -1e4  # logit of probability 0
_SMOOTH = 1e-5
_ALPHA, _GAMMA = 0.25, 2.0


def focal(logits_NCHW: Tensor, targets_NHW: Tensor) -> Tensor:
    """Focal loss: ``mean over n, c, h, w of -alpha * y * (1 - p)^gamma * log p`` with alpha 0.25 and gamma 2.

    Lin et al. 2017 (https://arxiv.org/abs/1708.02002), as ``CategoricalFocalLoss`` of the Keras ``segmentation_models``
    computes it: on softmax probabilities. Only the true class of a pixel contributes, so the mean over C channels
    divides by C. The ``FocalLoss`` of segmentation-models-pytorch is another function: one sigmoid per class.
    """
    cross_entropy_NHW = F.cross_entropy(logits_NCHW, targets_NHW, reduction="none")
    doubt_NHW = -torch.expm1(-cross_entropy_NHW)
    return _ALPHA * (doubt_NHW**_GAMMA * cross_entropy_NHW).mean() / logits_NCHW.shape[1]


def film_jaccard(logits_NCHW: Tensor, targets_NHW: Tensor) -> Tensor:
    """Soft Jaccard loss of each film and each class but background, averaged over both:
    ``1 - (sum p*y + s) / (sum p + sum y - sum p*y + s)``, sums over h, w.

    s is a thousandth of the film's pixels: on a film without the class the loss is P / (P + s), P the sum of its
    probabilities, so that false positives on such a film have a gradient. This project's variant of `jaccard`.
    """
    p_NCK = logits_NCHW.softmax(1)[:, 1:].flatten(2)
    y_NCK = F.one_hot(targets_NHW, logits_NCHW.shape[1]).movedim(-1, 1)[:, 1:].flatten(2).to(p_NCK)
    both_NC, smooth = (p_NCK * y_NCK).sum(2), p_NCK.shape[2] / 1000
    either_NC = p_NCK.sum(2) + y_NCK.sum(2) - both_NC
    return (1 - (both_NC + smooth) / (either_NC + smooth)).mean()


def soft_film_jaccard(logits_NCHW: Tensor, soft_NCHW: Tensor) -> Tensor:
    """Jaccard metric loss of each film and each class but background, averaged over both:
    ``1 - (|p| + |y| - |p - y| + 2s) / (|p| + |y| + |p - y| + 2s)``, ``|.|`` sums over h, w, y probabilities.

    Wang et al. 2023, Jaccard Metric Losses (https://arxiv.org/abs/2302.05666), with the s of `film_jaccard`, which it
    equals where y is 0 or 1. Where it is neither, it is 0 at p = y alone, and `film_jaccard` is not.
    """
    p_NCK, y_NCK = logits_NCHW.softmax(1)[:, 1:].flatten(2), soft_NCHW[:, 1:].flatten(2)
    apart_NC, smooth = (p_NCK - y_NCK).abs().sum(2), p_NCK.shape[2] / 1000
    sums_NC = p_NCK.sum(2) + y_NCK.sum(2) + 2 * smooth
    return (1 - (sums_NC - apart_NC) / (sums_NC + apart_NC)).mean()


def soft_loss(logits_NCHW: Tensor, maps_NCHW: Tensor) -> Tensor:
    """Cross-entropy plus `soft_film_jaccard` against ``maps``, uint8 ``[N, C-1, H, W]``: a teacher's probabilities of
    all classes but background, in 255ths."""
    classes_NCHW = maps_NCHW.float() / MAX_LEVEL
    background_N1HW = (1 - classes_NCHW.sum(1, keepdim=True)).clamp(min=0)
    soft_NCHW, logits_NCHW = torch.cat([background_N1HW, classes_NCHW], dim=1), logits_NCHW.float()
    return F.cross_entropy(logits_NCHW, soft_NCHW) + soft_film_jaccard(logits_NCHW, soft_NCHW)


def jaccard() -> Loss:
    """Soft Jaccard loss pooled over the batch: ``1 - mean over c of (sum p*y + s) / (sum p + sum y - sum p*y + s)``,
    s = 1e-5, sums over n, h, w; a class without a pixel in the batch counts 0.

    Rahman and Wang 2016 (https://doi.org/10.1007/978-3-319-50835-1_22), by segmentation-models-pytorch.
    """
    loss: Loss = smp().losses.JaccardLoss("multiclass", from_logits=True, smooth=_SMOOTH)
    return loss


def dice() -> Loss:
    """Soft Dice loss pooled over the batch: ``1 - mean over c of (2 sum p*y + s) / (sum p + sum y + s)``, s = 1e-5,
    sums over n, h, w; a class without a pixel in the batch counts 0.

    Milletari et al. 2016 (https://arxiv.org/abs/1606.04797) without their squares, by segmentation-models-pytorch.
    """
    loss: Loss = smp().losses.DiceLoss("multiclass", from_logits=True, smooth=_SMOOTH)
    return loss


def merge_unknown(logits_NCHW: Tensor, targets_NHW: Tensor) -> tuple[Tensor, Tensor]:
    """Logits and class indices in which no pixel is UNKNOWN. Such a pixel, known to be class 0 or class 1, counts as
    class 0 with the probability of both, and class 1 has none there: neither class is learned from it, and every other
    class is. For films without a lung mask, whose infection is known."""
    unknown_N1HW = (targets_NHW == UNKNOWN)[:, None]
    merged_NCHW = logits_NCHW.clone()
    merged_NCHW[:, :1] = logits_NCHW[:, :2].logsumexp(1, keepdim=True)
    merged_NCHW[:, 1:2] = _IMPOSSIBLE
    return torch.where(unknown_N1HW, merged_NCHW, logits_NCHW), targets_NHW.masked_fill(unknown_N1HW[:, 0], 0)


class SumOfLosses(nn.Module):
    """The sum of several losses, each with weight 1, on logits in float32; for UNKNOWN targets see `merge_unknown`."""

    def __init__(self, *parts: Loss) -> None:
        super().__init__()
        self.parts = parts

    def forward(self, logits_NCHW: Tensor, targets_NHW: Tensor) -> Tensor:
        logits_NCHW = logits_NCHW.float()
        if logits_NCHW.shape[1] > 2:
            logits_NCHW, targets_NHW = merge_unknown(logits_NCHW, targets_NHW)
        return torch.stack([part(logits_NCHW, targets_NHW) for part in self.parts]).sum()


_LOSSES: dict[str, Callable[[], SumOfLosses]] = {
    "focal+jaccard": lambda: SumOfLosses(focal, jaccard()),
    "cross-entropy+jaccard": lambda: SumOfLosses(F.cross_entropy, jaccard()),
    "cross-entropy+film-jaccard": lambda: SumOfLosses(F.cross_entropy, film_jaccard),
    "dice": lambda: SumOfLosses(dice()),
}


def build_loss(name: str) -> nn.Module:
    """The loss that a job's ``train.loss`` names; ``focal+jaccard`` is the publication's."""
    return _LOSSES[name]()

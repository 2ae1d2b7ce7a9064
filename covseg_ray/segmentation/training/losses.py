"""Losses by name, from logits float ``[N, C, H, W]`` and class indices int64 ``[N, H, W]`` to one number.

They are computed in float32 whatever the precision of the logits. Jaccard and Dice are pooled over the batch and
averaged over the classes; a class without a pixel in the batch counts 0 (segmentation-models-pytorch). ``FilmJaccard``
is of each film by itself, and what is found on a film without infection costs something.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from covseg_ray.errors import ConfigError
from covseg_ray.segmentation.network.torchvision_operators import smp

_SMOOTH = 1e-5


class SoftmaxFocal(nn.Module):
    """Focal loss on softmax probabilities, as the Keras ``segmentation_models`` computes it.

    ``mean over n, c, h, w of -alpha * y * (1 - p)^gamma * log p``, y one-hot, p softmax. Only the true class of a
    pixel contributes, so the mean over C channels divides by C. Lin et al. 2017 (https://arxiv.org/abs/1708.02002);
    alpha 0.25, gamma 2 and the mean over channels are ``CategoricalFocalLoss``'s. The ``FocalLoss`` of
    segmentation-models-pytorch is another function: one sigmoid per class.
    """

    def __init__(self, alpha: float = 0.25, gamma: float = 2.0) -> None:
        super().__init__()
        self.alpha = alpha
        self.gamma = gamma

    def forward(self, logits_NCHW: Tensor, targets_NHW: Tensor) -> Tensor:
        cross_entropy_NHW = F.cross_entropy(logits_NCHW, targets_NHW, reduction="none")
        doubt_NHW = -torch.expm1(-cross_entropy_NHW)
        return self.alpha * (doubt_NHW**self.gamma * cross_entropy_NHW).mean() / logits_NCHW.shape[1]


class FilmJaccard(nn.Module):
    """Soft Jaccard loss of each film and each class but the first (background), averaged over both.

    ``1 - (sum p*y + s) / (sum p + sum y - sum p*y + s)``, sums over h, w, with s a thousandth of the film's pixels: on
    a film without the class the loss is P / (P + s), P the probability given to it, and its gradient asks for less.
    """

    def forward(self, logits_NCHW: Tensor, targets_NHW: Tensor) -> Tensor:
        p_NCK = logits_NCHW.softmax(1)[:, 1:].flatten(2)
        y_NCK = F.one_hot(targets_NHW, logits_NCHW.shape[1]).movedim(-1, 1)[:, 1:].flatten(2).to(p_NCK)
        both_NC, smooth = (p_NCK * y_NCK).sum(2), p_NCK.shape[2] / 1000
        either_NC = p_NCK.sum(2) + y_NCK.sum(2) - both_NC
        return (1 - (both_NC + smooth) / (either_NC + smooth)).mean()


class SumOfLosses(nn.Module):
    def __init__(self, *parts: nn.Module) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)

    def forward(self, logits_NCHW: Tensor, targets_NHW: Tensor) -> Tensor:
        logits_NCHW = logits_NCHW.float()
        return torch.stack([part(logits_NCHW, targets_NHW) for part in self.parts]).sum()


def _jaccard() -> nn.Module:
    """``1 - mean over c of (sum p*y + s) / (sum p + sum y - sum p*y + s)``, s = 1e-5, sums over n, h, w."""
    loss: nn.Module = smp().losses.JaccardLoss("multiclass", from_logits=True, smooth=_SMOOTH)
    return loss


def _dice() -> nn.Module:
    """``1 - mean over c of (2 sum p*y + s) / (sum p + sum y + s)``, s = 1e-5, sums over n, h, w."""
    loss: nn.Module = smp().losses.DiceLoss("multiclass", from_logits=True, smooth=_SMOOTH)
    return loss


_LOSSES: dict[str, tuple[Callable[[], nn.Module], ...]] = {
    "focal+jaccard": (SoftmaxFocal, _jaccard),
    "cross-entropy+jaccard": (nn.CrossEntropyLoss, _jaccard),
    "cross-entropy+film-jaccard": (nn.CrossEntropyLoss, FilmJaccard),
    "dice": (_dice,),
}


def build_loss(name: str) -> nn.Module:
    """``focal+jaccard`` (the publication's), ``cross-entropy+jaccard``, ``cross-entropy+film-jaccard`` or ``dice``;
    parts are added with weight 1.

    Raises:
        ConfigError: no loss has that name.
    """
    if name not in _LOSSES:
        near = difflib.get_close_matches(name, _LOSSES, n=1, cutoff=0.0)[0]
        raise ConfigError(f"train.loss: no loss {name!r}; nearest is {near!r}, known are {', '.join(_LOSSES)}")
    return SumOfLosses(*(part() for part in _LOSSES[name]))

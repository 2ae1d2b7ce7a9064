"""From the network's scores of a pixel to its class: the most probable one, or by a rule chosen on films."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, Field
from scipy import ndimage
from torch import Tensor, nn

MAX_LEVEL = 255  # a probability of 1, in the bytes that `Decide` returns
CONNECTIVITY = np.ones((3, 3))  # 8 neighbours: pixels of a region may touch at corners


class Rule(BaseModel, frozen=True, extra="forbid"):
    """Infection where its probability is at least ``threshold``, else the most probable of the other classes.

    8-connected regions of fewer than ``smallest_region`` pixels, counted at the model's input size, are removed. With
    ``flip`` the probabilities are the mean over the film and its mirror image.
    """

    threshold: float = Field(gt=0, lt=1)
    smallest_region: int = Field(default=0, ge=0)
    flip: bool = False


Decision = Literal["argmax"] | Rule


class Decide(nn.Module):
    """From the network's input, float ``[N, 3, H, W]``, to uint8 ``[N, 2, H, W]``: each pixel's class, and its
    probability of ``infection`` in 255ths, rounded. A tie goes to the class of the lower index."""

    kept_out: Tensor

    def __init__(self, network: nn.Module, decision: Decision, classes: int, infection: int) -> None:
        super().__init__()
        self.network = network
        self.infection = infection
        self.flip = isinstance(decision, Rule) and decision.flip
        self.threshold = decision.threshold if isinstance(decision, Rule) else None
        kept_out_C11 = torch.zeros(classes, 1, 1)
        kept_out_C11[infection] = 2.0  # more than any probability
        self.register_buffer("kept_out", kept_out_C11, persistent=False)

    def forward(self, films_NCHW: Tensor) -> Tensor:
        scores_NCHW = self.network(films_NCHW)
        probabilities_NCHW = scores_NCHW.float().softmax(1)
        if self.flip:
            mirrored_NCHW = self.network(films_NCHW.flip(3)).float().softmax(1).flip(3)
            scores_NCHW = probabilities_NCHW = (probabilities_NCHW + mirrored_NCHW) / 2
        infection_NHW = probabilities_NCHW[:, self.infection]
        if self.threshold is None:
            classes_NHW = most_probable(scores_NCHW)
        else:
            others_NHW = most_probable(probabilities_NCHW - self.kept_out)
            classes_NHW = others_NHW.masked_fill(infection_NHW >= self.threshold, self.infection)
        return torch.stack([classes_NHW, (infection_NHW * MAX_LEVEL).round().to(torch.uint8)], dim=1)


def most_probable(scores_NCHW: Tensor) -> Tensor:
    """The class of the highest score of each pixel, uint8 ``[N, H, W]``; of equal ones that of the lower index.

    For one film on a CPU ``argmax`` over channels takes a quarter as long as a ResNet34 U-Net.
    """
    highest_NHW = scores_NCHW[:, 0]
    classes_NHW = torch.zeros_like(highest_NHW, dtype=torch.uint8)
    for index in range(1, scores_NCHW.shape[1]):
        higher_NHW = scores_NCHW[:, index] > highest_NHW
        classes_NHW = classes_NHW.masked_fill(higher_NHW, index)
        highest_NHW = torch.maximum(highest_NHW, scores_NCHW[:, index])
    return classes_NHW


def remove_small_regions(classes_NHW: NDArray[np.uint8], infection: int, fallback: int, smallest: int) -> None:
    """Set the pixels of each infected region of fewer than ``smallest`` pixels to the class ``fallback``, in place."""
    for classes_HW in classes_NHW:
        found_HW = classes_HW == infection
        if smallest > 1 and found_HW.any():
            regions_HW, _ = ndimage.label(found_HW, CONNECTIVITY)
            sizes = np.bincount(regions_HW.ravel())
            classes_HW[found_HW & (sizes[regions_HW] < smallest)] = fallback

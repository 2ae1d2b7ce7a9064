"""A model as a plain script has it: eager torch in fp32 and NCHW, no engine, no Ray."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from covseg_ray.engine.bundle_io import load_bundle
from covseg_ray.segmentation.network.bundle import BundleSpec
from covseg_ray.segmentation.network.decision import Rule

MEAN = np.array([0.485, 0.456, 0.406], np.float32)[:, None, None]
STD = np.array([0.229, 0.224, 0.225], np.float32)[:, None, None]


def prepare(film_SS: NDArray[np.uint8]) -> NDArray[np.float32]:
    """A film as the network takes it, float32 ``[3, S, S]``."""
    grey_SS = film_SS.astype(np.float32)
    grey_SS = (grey_SS - grey_SS.min()) / max(float(np.ptp(grey_SS)), 1.0)
    return (grey_SS[None] - MEAN) / STD


def decide(logits_NCHW: torch.Tensor, spec: BundleSpec) -> NDArray[np.bool_]:
    """Masks of infection by the model's rule: a threshold, and no region that is too small."""
    infection_NHW = logits_NCHW.softmax(1)[:, spec.infection]
    if not isinstance(spec.decision, Rule):
        return (logits_NCHW.argmax(1) == spec.infection).numpy()
    masks_NHW = (infection_NHW >= spec.decision.threshold).numpy()
    return np.stack([without_small(mask_HW, spec.decision.smallest_region) for mask_HW in masks_NHW])


def without_small(mask_HW: NDArray[np.bool_], smallest: int) -> NDArray[np.bool_]:
    regions_HW, _ = ndimage.label(mask_HW, np.ones((3, 3)))
    sizes = np.bincount(regions_HW.ravel())
    kept: NDArray[np.bool_] = mask_HW & (sizes[regions_HW] >= smallest)
    return kept


class PlainModel:
    """The network of a bundle, its films and masks; a rule that averages mirror images is not for it."""

    def __init__(self, model: str) -> None:
        bundle = load_bundle(model)
        self.spec = bundle.spec
        self.network = bundle.network()

    @torch.inference_mode()
    def predict(self, films_NSS: NDArray[np.uint8]) -> NDArray[np.bool_]:
        batch_NCSS = torch.from_numpy(np.stack([prepare(film_SS) for film_SS in films_NSS]))
        return decide(self.network(batch_NCSS), self.spec)

"""A model's films/s as a plain script has it: eager torch in fp32 and NCHW, films in memory, no engine, no Ray.

    python tests/bench/peers/plain_predict.py BUNDLE [--films 32] [--batch-size 32]

Measures once for each line on standard input and prints JSON: ``films_per_second``.
"""

from __future__ import annotations

import argparse
import json
import sys
import time

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from covseg_ray.engine.bundles import load_bundle
from covseg_ray.radiograph.phantom import make_phantom
from covseg_ray.segmentation.bundle import BundleSpec
from covseg_ray.segmentation.decision import Rule

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


def films_per_second(model: PlainModel, films_NSS: NDArray[np.uint8], batch: int) -> float:
    begin = time.perf_counter()
    for start in range(0, len(films_NSS), batch):
        model.predict(films_NSS[start : start + batch])
    return len(films_NSS) / (time.perf_counter() - begin)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--films", type=int, default=32)
    parser.add_argument("--batch-size", type=int, default=32)
    given = parser.parse_args()
    model = PlainModel(given.model)
    side = model.spec.input_size
    films_NSS = np.stack([make_phantom(0, index, side).image for index in range(given.films)])
    model.predict(films_NSS[: given.batch_size])
    for _ in sys.stdin:
        print(json.dumps({"films_per_second": films_per_second(model, films_NSS, given.batch_size)}), flush=True)


if __name__ == "__main__":
    main()

"""How far a dataset's masks agree with themselves: films that it holds twice, laid over each other.

    python benchmarks/fit/label_agreement.py DATASET [--least 0.99]

Finds near-copies among all films of a packed dataset, in one split or two, as `data audit` does across splits. Copies
are often cropped otherwise, so the second film of each pair is moved, turned, sheared and scaled until it is most like
the first (greatest correlation, by gradient descent over an affine map, on films of a quarter, half and all of their
size). Pairs that come to at least `--least` are the same picture; their masks, moved likewise, are compared. Prints a
JSON document; no film is named.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from covseg_ray.segmentation.evaluation.metrics import Counts, count, count_lung, image_iou, summarise
from covseg_ray.storage.datasets.near_duplicates import find_duplicates, fingerprint
from covseg_ray.storage.datasets.read import list_units, read_info, read_unit

LEAST = 0.99
STEPS = 150
RATE_BY_PART = {4: 0.01, 2: 0.003, 1: 0.001}


def read_films(dataset: str) -> tuple[NDArray[np.uint8], dict[str, NDArray[np.uint8]]]:
    """Every film of the dataset, uint8 ``[N, H, W]``, and its 0/1 masks by name."""
    splits = read_info(dataset).splits
    units = [read_unit(dataset, unit, with_lung=True) for split in splits for unit in list_units(dataset, split)]
    infection, lung = ([getattr(unit, name) for unit in units] for name in ("masks_NHW", "lungs_NHW"))
    masks = {"infection": np.concatenate(infection), "lung": np.concatenate(lung)}
    return np.concatenate([unit.images_NHW for unit in units]), masks


def correlation(first_HW: Tensor, second_HW: Tensor) -> Tensor:
    one, other = first_HW - first_HW.mean(), second_HW - second_HW.mean()
    return (one * other).sum() / (one.norm() * other.norm()).clamp_min(1e-9)


def moved(film_HW: Tensor, affine_23: Tensor, mode: str) -> Tensor:
    """The film under an affine map of its coordinates, which run from -1 to 1; beyond its edge it is as there."""
    grid_1HW2 = F.affine_grid(affine_23[None], [1, 1, *film_HW.shape], align_corners=False)
    return F.grid_sample(film_HW[None, None], grid_1HW2, mode, "border", align_corners=False)[0, 0]


def register(fixed_HW: Tensor, moving_HW: Tensor) -> tuple[Tensor, float]:
    """The affine map that makes ``moving_HW`` most like ``fixed_HW``, and the correlation that it comes to."""
    affine_23 = torch.eye(2, 3).requires_grad_()
    for part, rate in RATE_BY_PART.items():
        optimizer = torch.optim.Adam([affine_23], rate)
        fixed, moving = (F.avg_pool2d(film_HW[None], part)[0] for film_HW in (fixed_HW, moving_HW))
        for _ in range(STEPS):
            optimizer.zero_grad()
            (-correlation(fixed, moved(moving, affine_23, "bilinear"))).backward()
            optimizer.step()
    found_23 = affine_23.detach()
    return found_23, float(correlation(fixed_HW, moved(moving_HW, found_23, "bilinear")))


def agreement(counts_N4: Counts, lungs_N4: Counts) -> dict[str, object]:
    """What `evaluate` says of a model, of the first film's masks as predicted and the second's as the truth; and of the
    IoU of infection where the second has any, the median and how many come to less than a half."""
    iou_N = image_iou(counts_N4)[counts_N4[:, 0] + counts_N4[:, 2] > 0]
    metrics = summarise([f"{row:06}" for row in range(len(counts_N4))], counts_N4, lungs_N4)
    document: dict[str, object] = {name: asdict(estimate) for name, estimate in metrics.items()}
    return document | {
        "infected": len(iou_N),
        "median_iou": float(np.median(iou_N)),
        "under_half": int((iou_N < 0.5).sum()),
    }


def measure(dataset: str, least: float) -> dict[str, object]:
    images_NHW, masks = read_films(dataset)
    found = [pair for pair in find_duplicates([fingerprint(image_HW) for image_HW in images_NHW]) if not pair.exact]
    firsts: list[int] = []
    laid: dict[str, list[NDArray[np.bool_]]] = {name: [] for name in masks}
    for pair in found:
        fixed_HW, moving_HW = (torch.from_numpy(images_NHW[index]).float() for index in (pair.first, pair.second))
        affine_23, reached = register(fixed_HW, moving_HW)
        if reached >= least:
            firsts.append(pair.first)
            for name, masks_NHW in masks.items():
                moving_HW = torch.from_numpy(masks_NHW[pair.second]).float()
                laid[name].append(moved(moving_HW, affine_23, "nearest").numpy() > 0)
    infection_NHW, lung_NHW = np.stack(laid["infection"]), np.stack(laid["lung"])
    counts_N4 = count(masks["infection"][firsts] > 0, infection_NHW)
    lungs_N4 = count_lung(masks["lung"][firsts] > 0, lung_NHW, infection_NHW)
    films: dict[str, object] = {"films": len(images_NHW), "pairs": len(found), "same_picture": len(firsts)}
    return films | agreement(counts_N4, lungs_N4)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset")
    parser.add_argument("--least", type=float, default=LEAST)
    given = parser.parse_args()
    print(json.dumps(measure(given.dataset, given.least), indent=2))


if __name__ == "__main__":
    main()

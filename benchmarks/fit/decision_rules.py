"""Other ways from a model's probabilities to a mask than its rule, and what each scores on split val.

    python benchmarks/fit/decision_rules.py BUNDLE DATASET

Takes a bundle with a rule. Films on which it marks nothing stay without a mark in every way; in the others

- *by film*: the threshold at which the film's expected IoU is greatest, were its pixels right by the probabilities that
  the model gives them, each for itself (Dai and Li, RankSEG, 2023);
- *best by film*: the threshold at which its IoU with the truth is greatest, which nobody knows beforehand;
- *smoothed*: probabilities under a Gaussian of one pixel before the rule;
- *grown*, *shrunk*: the rule's regions with a pixel more, or less, all around;
- *filled*: the holes in its regions filled.

Prints a JSON document; no film is named.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from covseg_ray.engine.bundle_io import load_bundle
from covseg_ray.engine.training.split import Source
from covseg_ray.segmentation.evaluation.metrics import count, point_values
from covseg_ray.segmentation.inference.predictor import BatchPredictor
from covseg_ray.segmentation.network.bundle import Bundle
from covseg_ray.segmentation.network.decision import MAX_LEVEL, Rule, remove_small_regions
from covseg_ray.storage.datasets.read import list_units

LEVELS = np.arange(1, MAX_LEVEL + 1)  # probabilities in 255ths
TOLD = ("iou_all", "dice_all", "iou_pooled", "iou_image", "dice_image", "false_alarm")

Film = NDArray[np.uint8]
Mask = NDArray[np.bool_]


def marked(probability_HW: Film, level: int, smallest: int) -> Mask:
    """What is at least at the level, in regions of at least ``smallest`` pixels."""
    found_1HW = (probability_HW >= level)[None].astype(np.uint8)
    remove_small_regions(found_1HW, 1, 0, smallest)
    regions_HW: Mask = found_1HW[0] > 0
    return regions_HW


def best_level(probability_HW: Film, truth_HW: NDArray[Any]) -> int:
    """The level with the greatest IoU, the lowest of equals; with a truth of probabilities, the greatest expected
    overlap over the expected union."""
    levels, truth = probability_HW.ravel(), truth_HW.ravel().astype(np.float64)
    marked_L, right_L = (np.cumsum(each[::-1])[::-1] for each in (pixels_of(levels), pixels_of(levels, truth)))
    union_L = marked_L + truth.sum() - right_L
    return int(LEVELS[(right_L / np.maximum(union_L, 1e-9))[1:].argmax()])


def pixels_of(levels: NDArray[np.uint8], weights: NDArray[np.float64] | None = None) -> NDArray[Any]:
    """How many pixels there are of each level, or the sum of their weights."""
    return np.bincount(levels, weights, minlength=MAX_LEVEL + 1)


def ways(rule: Rule) -> dict[str, Callable[[Film, Mask, Mask], Mask]]:
    """From a film's probabilities, what the rule marks, and the truth, at which one of them looks, to its mask."""
    level, smallest = level_of(rule), rule.smallest_region

    def smooth(film_HW: Film) -> Film:
        smoothed_HW: Film = ndimage.gaussian_filter(film_HW.astype(np.float32), 1).round().astype(np.uint8)
        return smoothed_HW

    return {
        "the rule": lambda film_HW, ruled_HW, _: ruled_HW,
        "by film": lambda film_HW, ruled_HW, _: marked(film_HW, best_level(film_HW, film_HW / MAX_LEVEL), smallest),
        "best by film": lambda film_HW, ruled_HW, truth_HW: marked(film_HW, best_level(film_HW, truth_HW), smallest),
        "smoothed": lambda film_HW, ruled_HW, _: marked(smooth(film_HW), level, smallest),
        "grown": lambda film_HW, ruled_HW, _: ndimage.binary_dilation(ruled_HW),
        "shrunk": lambda film_HW, ruled_HW, _: ndimage.binary_erosion(ruled_HW),
        "filled": lambda film_HW, ruled_HW, _: ndimage.binary_fill_holes(ruled_HW),
    }


def level_of(rule: Rule) -> int:
    """The lowest level that the rule marks, in 255ths."""
    return round(rule.threshold * MAX_LEVEL + 0.5)


def measure(bundle: Bundle, dataset: str) -> dict[str, dict[str, float]]:
    rule = bundle.spec.decision
    if not isinstance(rule, Rule):
        raise SystemExit("the bundle has no rule; covseg-ray model decide gives it one")
    source = Source(dataset, tuple(list_units(dataset, "val")), bundle.spec.classes)
    predictor, by_way = BatchPredictor(bundle), ways(rule)
    ids: list[str] = []
    counts: dict[str, list[NDArray[np.int64]]] = {way: [] for way in by_way}
    for unit in range(len(source.units)):
        films = source.films(unit)
        ids += films.image_ids
        truth_NHW = films.masks_NHW > 0
        _, probability_NHW = predictor.predict_probabilities(films.images_NHW)
        for film_HW, truth_HW in zip(probability_NHW, truth_NHW, strict=True):
            ruled_HW = marked(film_HW, level_of(rule), rule.smallest_region)
            for way, mask in by_way.items():
                found_HW = mask(film_HW, ruled_HW, truth_HW) if ruled_HW.any() else ruled_HW
                counts[way].append(count(found_HW[None], truth_HW[None]))
    scores = {way: point_values(ids, np.concatenate(rows)) for way, rows in counts.items()}
    return {way: {name: found[name] for name in TOLD} for way, found in scores.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle")
    parser.add_argument("dataset")
    given = parser.parse_args()
    print(json.dumps(measure(load_bundle(given.bundle), given.dataset), indent=2))


if __name__ == "__main__":
    main()

"""Every number covseg-ray reports, as a function of four integers per image.

The counts ``tp, fp, fn, tn`` of infection pixels are merged over batches, workers and nodes by putting them together;
they are sorted by image id before anything is computed, so no number depends on how the work was divided. Each metric
is a ratio of two sums over independent units (images, or batches for ``iou_two_class``), which is what the bootstrap
resamples.

=================  ====================================================================================================
``iou_pooled``     tp / (tp + fp + fn), pixels summed over all images
``dice_pooled``    2 tp / (2 tp + fp + fn), pixels summed over all images
``iou_image``      mean IoU over the images that have infection; ``dice_image`` likewise
``iou_all``        mean IoU over all images, 1 where prediction and truth are both empty; ``dice_all`` likewise
``false_alarm``    share of the infection-free images with at least one predicted pixel
``iou_two_class``  mean over batches of 32, in order of image id, of the mean of background and infection IoU, pixels
                   summed over the batch, 1e-5 added above and below: ``IOUScore`` of the Keras segmentation_models
=================  ====================================================================================================
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from covseg_ray.errors import DatasetError

TWO_CLASS_BATCH = 32
RESAMPLES = 1000
_SMOOTH = 1e-5
_WEIGHTS_AT_ONCE = 4_000_000

Counts = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Estimate:
    """A metric and its bootstrap 95 % interval."""

    value: float
    low: float
    high: float


def count(predicted_NHW: NDArray[np.bool_], truth_NHW: NDArray[np.bool_]) -> Counts:
    """Pixels of each image: int64 ``[N, 4]``, columns tp, fp, fn, tn; each row sums to H * W."""
    predicted, truth = predicted_NHW.astype(bool, copy=False), truth_NHW.astype(bool, copy=False)
    if predicted.shape != truth.shape:
        raise ValueError(f"predicted {predicted.shape} and truth {truth.shape} differ in shape")
    tp = np.count_nonzero(predicted & truth, axis=(1, 2))
    fp = np.count_nonzero(predicted, axis=(1, 2)) - tp
    fn = np.count_nonzero(truth, axis=(1, 2)) - tp
    tn = predicted.shape[1] * predicted.shape[2] - tp - fp - fn
    return np.stack([tp, fp, fn, tn], axis=1).astype(np.int64)


def point_values(image_ids: Sequence[str], counts_N4: Counts) -> dict[str, float]:
    """Each metric's value by name; a metric that has no image to stand on is left out.

    Raises:
        DatasetError: an image id appears twice.
    """
    ratios = _ratios(_in_order(image_ids, counts_N4))
    return {name: float(over.sum() / under.sum()) for name, (over, under) in ratios.items()}


def summarise(image_ids: Sequence[str], counts_N4: Counts, seed: int = 0) -> dict[str, Estimate]:
    """Each metric with its 95 % percentile interval over 1,000 bootstrap resamples, the same for the same seed.

    Images are resampled with replacement, and batches for ``iou_two_class``; resamples on which a metric is undefined
    do not count. Efron & Tibshirani 1993, chapter 13.

    Raises:
        DatasetError: an image id appears twice.
    """
    ratios = _ratios(_in_order(image_ids, counts_N4))
    low_high = {}
    for units in {len(over) for over, _ in ratios.values()}:
        low_high.update(_intervals({name: pair for name, pair in ratios.items() if len(pair[0]) == units}, units, seed))
    return {name: Estimate(float(over.sum() / under.sum()), *low_high[name]) for name, (over, under) in ratios.items()}


def image_iou(counts_N4: Counts) -> Floats:
    """IoU of each image, float64 ``[N]``; 1 where neither the prediction nor the truth has a pixel."""
    tp, fp, fn, _ = counts_N4.T.astype(np.float64)
    return _or_one(tp, tp + fp + fn)


def _in_order(image_ids: Sequence[str], counts_N4: Counts) -> Counts:
    if len(image_ids) != len(counts_N4):
        raise ValueError(f"{len(image_ids)} image ids for {len(counts_N4)} rows of counts")
    order = sorted(range(len(image_ids)), key=image_ids.__getitem__)
    for earlier, later in itertools.pairwise(order):
        if image_ids[earlier] == image_ids[later]:
            raise DatasetError(f"image {image_ids[later]!r} was counted twice; image ids must be unique in a dataset")
    return np.asarray(counts_N4, dtype=np.int64).reshape(-1, 4)[order]


def _ratios(counts_N4: Counts) -> dict[str, tuple[Floats, Floats]]:
    """By name, what is summed above and below the line: float64 ``[units]`` each, never zero below in total."""
    tp, fp, fn, _ = counts_N4.T.astype(np.float64)
    iou, dice = _or_one(tp, tp + fp + fn), _or_one(2 * tp, 2 * tp + fp + fn)
    ill, healthy = (tp + fn > 0).astype(np.float64), (tp + fn == 0).astype(np.float64)
    two_class = _two_class(counts_N4)
    ratios = {
        "iou_pooled": (tp, tp + fp + fn),
        "dice_pooled": (2 * tp, 2 * tp + fp + fn),
        "iou_image": (iou * ill, ill),
        "dice_image": (dice * ill, ill),
        "iou_all": (iou, np.ones_like(iou)),
        "dice_all": (dice, np.ones_like(dice)),
        "false_alarm": ((fp > 0) * healthy, healthy),
        "iou_two_class": (two_class, np.ones_like(two_class)),
    }
    return {name: pair for name, pair in ratios.items() if pair[1].sum() > 0}


def _or_one(over: Floats, under: Floats) -> Floats:
    share: Floats = np.ones_like(over)
    np.divide(over, under, out=share, where=under > 0)
    return share


def _two_class(counts_N4: Counts) -> Floats:
    if not len(counts_N4):
        return np.zeros(0)
    batches = np.add.reduceat(counts_N4, np.arange(0, len(counts_N4), TWO_CLASS_BATCH), axis=0)
    tp, fp, fn, tn = batches.T.astype(np.float64)
    infection: Floats = (tp + _SMOOTH) / (tp + fp + fn + _SMOOTH)
    background: Floats = (tn + _SMOOTH) / (tn + fp + fn + _SMOOTH)
    return (infection + background) / 2


def _intervals(ratios: dict[str, tuple[Floats, Floats]], units: int, seed: int) -> dict[str, tuple[float, float]]:
    columns = np.stack([column for pair in ratios.values() for column in pair], axis=1)
    sums = np.concatenate([weights @ columns for weights in _resamples(units, seed)])
    over, under = sums[:, 0::2], sums[:, 1::2]
    intervals = {}
    for index, name in enumerate(ratios):
        defined = under[:, index] > 0
        low, high = np.percentile(over[defined, index] / under[defined, index], [2.5, 97.5])
        intervals[name] = (float(low), float(high))
    return intervals


def _resamples(units: int, seed: int) -> Iterator[Floats]:
    """How often each unit was drawn, float64 ``[resamples, units]``, in pieces that fit in memory."""
    generator = np.random.default_rng(seed)
    chances = np.full(units, 1 / units)
    piece = max(1, min(RESAMPLES, _WEIGHTS_AT_ONCE // units))
    for start in range(0, RESAMPLES, piece):
        yield generator.multinomial(units, chances, size=min(piece, RESAMPLES - start)).astype(np.float64)

"""Every number covseg-ray reports, as a function of a few integers per image.

The counts ``tp, fp, fn, tn`` of infection pixels, and for a model that knows lungs those of :func:`count_lung`, are
merged over batches, workers and nodes by putting them together; they are sorted by image id before anything is
computed, so no number depends on how the work was divided. Each metric is a ratio of two sums over independent units
(images, or batches for ``iou_two_class``), which is what the bootstrap resamples.

===================  ==================================================================================================
``iou_pooled``       tp / (tp + fp + fn), pixels summed over all images
``dice_pooled``      2 tp / (2 tp + fp + fn), pixels summed over all images
``iou_image``        mean IoU over the images that have infection; ``dice_image`` likewise
``iou_all``          mean IoU over all images, 1 where prediction and truth are both empty; ``dice_all`` likewise
``false_alarm``      share of the infection-free images with at least one predicted pixel
``iou_two_class``    mean over batches of 32, in order of image id, of the mean of background and infection IoU, pixels
                     summed over the batch, 1e-5 added above and below: ``IOUScore`` of the Keras segmentation_models
``lung_iou``         mean IoU of the whole lung, infected or not, over the images with a lung mask
``lung_iou_pooled``  the same with pixels summed over those images
``severity_error``   mean absolute difference between the predicted and the true infected share of the lung, over the
                     images with a lung mask; the predicted share is 0 where no lung is predicted
===================  ==================================================================================================
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from covseg_ray.errors import DatasetError
from covseg_ray.segmentation.estimate import Estimate
from covseg_ray.segmentation.evaluation.bootstrap import Floats, Ratio, estimate, value

LOWER_IS_BETTER = frozenset({"false_alarm", "severity_error"})
TWO_CLASS_BATCH = 32
_SMOOTH = 1e-5

Counts = NDArray[np.int64]
Masks = NDArray[np.bool_]


def count(predicted_NHW: Masks, truth_NHW: Masks) -> Counts:
    """Pixels of each image: int64 ``[N, 4]``, columns tp, fp, fn, tn; each row sums to H * W."""
    predicted, truth = predicted_NHW.astype(bool, copy=False), truth_NHW.astype(bool, copy=False)
    if predicted.shape != truth.shape:
        raise ValueError(f"predicted {predicted.shape} and truth {truth.shape} differ in shape")
    tp = np.count_nonzero(predicted & truth, axis=(1, 2))
    fp = np.count_nonzero(predicted, axis=(1, 2)) - tp
    fn = np.count_nonzero(truth, axis=(1, 2)) - tp
    tn = predicted.shape[1] * predicted.shape[2] - tp - fp - fn
    return np.stack([tp, fp, fn, tn], axis=1).astype(np.int64)


def count_lung(predicted_NHW: Masks, truth_NHW: Masks, infected_NHW: Masks) -> Counts:
    """Lung pixels of each image: int64 ``[N, 4]``, columns tp, fp, fn, and how many of the true ones are infected.

    ``predicted_NHW`` and ``truth_NHW`` are the whole lung, infected or not; a row whose tp and fn are 0 is one of an
    image without a lung mask. ``infected_NHW`` is the true infection.
    """
    infected = np.count_nonzero(truth_NHW & infected_NHW, axis=(1, 2))
    return np.column_stack([count(predicted_NHW, truth_NHW)[:, :3], infected]).astype(np.int64)


def point_values(image_ids: Sequence[str], counts_N4: Counts, lungs_N4: Counts | None = None) -> dict[str, float]:
    """Each metric's value by name; one that has no image to stand on is left out. Raises as :func:`ratios` does."""
    return {name: value(ratio) for name, ratio in ratios(image_ids, counts_N4, lungs_N4).items()}


def summarise(image_ids: Sequence[str], counts_N4: Counts, lungs_N4: Counts | None = None) -> dict[str, Estimate]:
    """Each metric with its 95 % percentile interval over 1,000 bootstrap resamples, the same ones in each run.

    Images are resampled with replacement, and batches for ``iou_two_class``; resamples on which a metric is undefined
    do not count. See :mod:`covseg_ray.segmentation.evaluation.bootstrap`. Raises as :func:`ratios` does.
    """
    return estimate(ratios(image_ids, counts_N4, lungs_N4))


def ratios(image_ids: Sequence[str], counts_N4: Counts, lungs_N4: Counts | None = None) -> dict[str, Ratio]:
    """By name, what each metric sums above and below the line, in the order of the image ids.

    Raises:
        DatasetError: an image id appears twice.
    """
    order = _in_order(image_ids, len(counts_N4))
    infection_N4 = np.asarray(counts_N4, dtype=np.int64).reshape(-1, 4)[order]
    found = _infection_ratios(infection_N4)
    if lungs_N4 is not None:
        found |= _lung_ratios(infection_N4, np.asarray(lungs_N4, dtype=np.int64).reshape(-1, 4)[order])
    return {name: pair for name, pair in found.items() if pair[1].sum() > 0}


def image_iou(counts_N4: Counts) -> Floats:
    """IoU of each image, float64 ``[N]``; 1 where neither the prediction nor the truth has a pixel."""
    tp, fp, fn, _ = counts_N4.T.astype(np.float64)
    return _or_one(tp, tp + fp + fn)


def _in_order(image_ids: Sequence[str], rows: int) -> list[int]:
    if len(image_ids) != rows:
        raise ValueError(f"{len(image_ids)} image ids for {rows} rows of counts")
    order = sorted(range(rows), key=image_ids.__getitem__)
    for earlier, later in itertools.pairwise(order):
        if image_ids[earlier] == image_ids[later]:
            raise DatasetError(f"image {image_ids[later]!r} was counted twice; image ids must be unique in a dataset")
    return order


def _infection_ratios(counts_N4: Counts) -> dict[str, Ratio]:
    tp, fp, fn, _ = counts_N4.T.astype(np.float64)
    iou, dice = _or_one(tp, tp + fp + fn), _or_one(2 * tp, 2 * tp + fp + fn)
    ill, healthy = (tp + fn > 0).astype(np.float64), (tp + fn == 0).astype(np.float64)
    two_class = _two_class(counts_N4)
    return {
        "iou_pooled": (tp, tp + fp + fn),
        "dice_pooled": (2 * tp, 2 * tp + fp + fn),
        "iou_image": (iou * ill, ill),
        "dice_image": (dice * ill, ill),
        "iou_all": (iou, np.ones_like(iou)),
        "dice_all": (dice, np.ones_like(dice)),
        "false_alarm": ((fp > 0) * healthy, healthy),
        "iou_two_class": (two_class, np.ones_like(two_class)),
    }


def _lung_ratios(counts_N4: Counts, lungs_N4: Counts) -> dict[str, Ratio]:
    marked = counts_N4[:, 0] + counts_N4[:, 1]
    tp, fp, fn, infected = lungs_N4.T.astype(np.float64)
    known = (tp + fn > 0).astype(np.float64)
    shares = [part / np.maximum(lung, 1) for part, lung in ((marked, tp + fp), (infected, tp + fn))]
    return {
        "lung_iou": (_or_one(tp, tp + fp + fn) * known, known),
        "lung_iou_pooled": (tp * known, (tp + fp + fn) * known),
        "severity_error": (np.abs(shares[0] - shares[1]) * known, known),
    }


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

"""Choose the decision rule of a bundle that is best on labelled films."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from covseg_ray.engine.evaluation.report import METRICS_HOW
from covseg_ray.engine.evaluation.run import measure, measured
from covseg_ray.segmentation.evaluation.rule_search import LEVELS, SHARES, Choice, choose, count_rules
from covseg_ray.segmentation.inference.predictor import BatchPredictor, local_device
from covseg_ray.segmentation.network.bundle import Bundle
from covseg_ray.segmentation.network.decision import Rule
from covseg_ray.storage.datasets.read import Subset, read_unit

ANY_THRESHOLD = 0.5  # probabilities do not depend on it


def decide(bundle: Bundle, films: Subset, flip: bool, on_progress: Callable[[int, int], None]) -> tuple[Bundle, Choice]:
    """The same weights with the threshold and the smallest region that score best on ``films``; ``flip`` as in `Rule`.

    ``on_progress`` is called with the films done and all films.

    Raises:
        UsageError: an 8-bit model.
        DatasetError: an unknown split or label.
    """
    predictor = BatchPredictor(bundle.with_rule(Rule(threshold=ANY_THRESHOLD, flip=flip)), local_device())
    units = films.units()
    regions = tuple(round(share * bundle.spec.input_size**2) for share in SHARES)
    counts, ids = [], []
    for unit in units:
        part = read_unit(films.dataset, unit)
        _, probabilities_NHW = predictor.predict_probabilities(part.images_NHW)
        counts.append(count_rules(probabilities_NHW, part.masks_NHW > 0, LEVELS, regions))
        ids += part.image_ids
        on_progress(len(ids), sum(len(unit.rows) for unit in units))
    in_order = sorted(range(len(ids)), key=ids.__getitem__)
    choice = choose(np.concatenate(counts)[in_order], LEVELS, regions)
    rule = Rule(threshold=choice.threshold, smallest_region=choice.smallest_region, flip=flip)
    return bundle.with_rule(rule), choice


def with_metrics(bundle: Bundle, films: Subset, choice: Choice) -> Bundle:
    """The bundle with its metrics and its curve of the expected IoU on the films that chose its rule, and a note that
    they did."""
    how = (
        f"{METRICS_HOW.format(split=films.split)}. Threshold and smallest region were chosen on these films; on films "
        f"that did not choose (two-fold cross-validation), iou_all is {choice.expected:.4f}"
    )
    return measured(bundle, measure(bundle, films), how)

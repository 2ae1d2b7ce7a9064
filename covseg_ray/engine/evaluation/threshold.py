"""A bundle with the decision rule that is best on labelled films."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from covseg_ray.engine.evaluation.report import METRICS_HOW
from covseg_ray.engine.evaluation.run import measure
from covseg_ray.segmentation.evaluation.rule_search import LEVELS, SHARES, Choice, choose, count_rules
from covseg_ray.segmentation.inference.predictor import BatchPredictor, local_device
from covseg_ray.segmentation.network.bundle import Bundle
from covseg_ray.segmentation.network.decision import Rule
from covseg_ray.storage.datasets.read import list_units, read_unit

HALF = 0.5
BATCH = 32


def decide(
    bundle: Bundle,
    dataset: str,
    split: str,
    labels: Sequence[str] | None,
    flip: bool,
    told: Callable[[int, int], None],
) -> tuple[Bundle, Choice]:
    """The same weights with the threshold and the smallest region that score best on the films of a split; ``flip``
    as in `Rule`. ``told`` hears how many of how many films are done."""
    units = list_units(dataset, split, labels)
    looking = bundle.with_rule(Rule(threshold=HALF, flip=flip))
    predictor = BatchPredictor(looking, local_device())
    regions = tuple(round(share * bundle.spec.input_size**2) for share in SHARES)
    counts, ids = [], []
    for unit in units:
        films = read_unit(dataset, unit)
        _, probabilities_NHW = predictor.predict_probabilities(films.images_NHW)
        counts.append(count_rules(probabilities_NHW, films.masks_NHW > 0, LEVELS, regions))
        ids += films.image_ids
        told(len(ids), sum(len(unit.rows) for unit in units))
    in_order = sorted(range(len(ids)), key=ids.__getitem__)
    found = choose(np.concatenate(counts)[in_order], LEVELS, regions)
    rule = Rule(threshold=found.threshold, smallest_region=found.smallest_region, flip=flip)
    return bundle.with_rule(rule), found


def measured(bundle: Bundle, dataset: str, split: str, labels: Sequence[str] | None, found: Choice) -> Bundle:
    """The bundle with its metrics on the films that chose its rule, and that said beside them."""
    metrics = measure(bundle, dataset, split, labels, workers=1, batch_size=BATCH, exclude=frozenset()).metrics
    how = (
        f"{METRICS_HOW.format(split=split)}. Threshold and smallest region were chosen on these films; on films that "
        f"did not choose (two-fold cross-validation), iou_all is {found.expected:.4f}"
    )
    return Bundle(bundle.spec.model_copy(update={"metrics": dict(metrics), "metrics_how": how}), bundle.state)

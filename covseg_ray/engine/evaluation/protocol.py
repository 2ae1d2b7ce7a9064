"""How other benchmarks measure: the decision rule that they apply, and their metrics under this project's names.

MedSegBench (Aydin and Kus 2024, https://doi.org/10.1038/s41597-024-04159-2; ``test_pytorch.py`` of
https://github.com/zekikus/MedSegBench) predicts one film at a time, counts pixels above a probability of 0.5, and
averages IoU and F1, which is Dice, over the films. Its films of COVID-QU-Ex are those with COVID-19, which all have
infection: the averages are ``iou_image`` and ``dice_image``.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal, NamedTuple

from covseg_ray.segmentation.network.decision import Rule

ProtocolName = Literal["medsegbench"]


class Protocol(NamedTuple):
    """``metrics`` are names of :mod:`covseg_ray.segmentation.evaluation.metrics`."""

    rule: Rule
    metrics: tuple[str, ...]


PROTOCOLS: Mapping[ProtocolName, Protocol] = MappingProxyType(
    {"medsegbench": Protocol(Rule(threshold=0.5), ("iou_image", "dice_image"))}
)

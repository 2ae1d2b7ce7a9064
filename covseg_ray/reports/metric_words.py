"""What each reported number means, in plain words."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class MetricWords:
    title: str
    meaning: str
    higher_is_better: bool = True


METRICS = {
    "iou_two_class": MetricWords(
        "IoU, two classes",
        "Overlap of background and of infection, averaged, per batch of 32 films in order of their id, then over the "
        "batches. Background is easy, which lifts it well above the infection's own IoU; it is the score that the "
        "published 0.77 most likely is.",
    ),
    "iou_pooled": MetricWords(
        "IoU, pooled",
        "Infection pixels of all films thrown together: those that truth and prediction share, over those that either "
        "marks. Large infections weigh most.",
    ),
    "dice_pooled": MetricWords(
        "Dice, pooled", "The same pooled pixels, as twice the shared over the sum of both. Always at least the IoU."
    ),
    "iou_image": MetricWords(
        "IoU, per infected film", "The IoU of each film that has infection, averaged: every film weighs the same."
    ),
    "dice_image": MetricWords("Dice, per infected film", "The Dice of each film that has infection, averaged."),
    "iou_all": MetricWords(
        "IoU, every film",
        "Averaged over all films, infected or not. An infection-free film counts 1 when nothing is marked on it and 0 "
        "otherwise.",
    ),
    "dice_all": MetricWords("Dice, every film", "As above, with Dice."),
    "false_alarm": MetricWords(
        "False alarms",
        "The share of infection-free films on which at least one pixel was marked. Lower is better.",
        higher_is_better=False,
    ),
    "lung_iou": MetricWords(
        "Lung IoU, per film", "The IoU of the whole lung, infected or not, averaged over the films with a lung mask."
    ),
    "lung_iou_pooled": MetricWords("Lung IoU, pooled", "The same with the pixels of those films thrown together."),
    "severity_error": MetricWords(
        "Severity error",
        "How far the infected share of the lung is off, up or down, averaged over the films with a lung mask: 0.1 is "
        "ten percentage points. Lower is better.",
        higher_is_better=False,
    ),
}


def words_for(name: str) -> MetricWords:
    """The words of a metric; one that this page does not know goes by its own name."""
    return METRICS.get(name, MetricWords(name, ""))

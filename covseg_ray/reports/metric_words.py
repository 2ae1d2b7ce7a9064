"""The title and the meaning of each metric, for a reader of the reports."""

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
        "Mean of the IoU of background and of infection in batches of 32 films in order of their id, averaged over the "
        "batches. Background is easy to segment, so the value is well above the IoU of infection alone. The published "
        "0.77 is most likely this metric.",
    ),
    "iou_pooled": MetricWords(
        "IoU, pooled",
        "IoU of the infection pixels of all films together. Large infections have the most weight.",
    ),
    "dice_pooled": MetricWords("Dice, pooled", "Dice of the same pixels. Never below the IoU."),
    "iou_image": MetricWords(
        "IoU, per infected film", "Mean of the IoU of each film with infection. Every film has the same weight."
    ),
    "dice_image": MetricWords("Dice, per infected film", "Mean of the Dice of each film with infection."),
    "iou_all": MetricWords(
        "IoU, every film",
        "Mean over all films, infected or not. An infection-free film counts 1 when nothing is marked on it, else 0.",
    ),
    "dice_all": MetricWords("Dice, every film", "The same with Dice."),
    "false_alarm": MetricWords(
        "False alarms",
        "Share of infection-free films with at least one predicted pixel. Lower is better.",
        higher_is_better=False,
    ),
    "lung_iou": MetricWords(
        "Lung IoU, per film", "Mean IoU of the whole lung, infected or not, over the films with a lung mask."
    ),
    "lung_iou_pooled": MetricWords("Lung IoU, pooled", "IoU of the lung pixels of those films together."),
    "severity_error": MetricWords(
        "Severity error",
        "Mean absolute error of the infected share of the lung, over the films with a lung mask: 0.1 is ten percentage "
        "points. Lower is better.",
        higher_is_better=False,
    ),
}


def place(name: str) -> int:
    """The place of a metric among others: by METRICS, an unknown one after those."""
    return [*METRICS, name].index(name)


def words_for(name: str) -> MetricWords:
    """The words of a metric; an unknown metric is titled by its name."""
    return METRICS.get(name, MetricWords(name, ""))

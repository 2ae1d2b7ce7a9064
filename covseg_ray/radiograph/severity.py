"""How much of the lung is infected: whole, by side, and by upper, middle and lower zone.

The share of the lung that is opaque, by zones of a frontal film, is what scores such as Borghesi and Maroldi's Brixia
score (Radiol Med 125, 509, 2020: three zones a lung, divided at the height of the aortic arch and of the inferior wall
of the right pulmonary vein) grade by eye. Those landmarks are not at hand: here each lung's height is cut in thirds.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

ZONES = ("upper", "middle", "lower")
LEAST_LUNG, MOST_LUNG = 0.05, 0.75
LEAST_SIDE = 0.25


@dataclass(frozen=True, slots=True)
class Severity:
    """Infected share of lung, 0 to 1, or None where there is no lung.

    ``left`` and ``right`` are the image's sides: a frontal film shows the patient's right lung on its left. ``zones``
    names each by side and height, as ``left-upper``. ``plausible`` is False where the lung mask covers less than 5 % or
    more than 75 % of the film, is not narrower between its two sides, or one side holds less than a quarter of what the
    other does: believe nothing then.
    """

    whole: float | None
    left: float | None
    right: float | None
    zones: dict[str, float | None]
    plausible: bool


def severity(infection_HW: NDArray[np.uint8], lung_HW: NDArray[np.uint8]) -> Severity:
    """From masks of 0 and 1, uint8 [H, W]; ``lung_HW`` is all lung, infected too; what lies beyond does not count."""
    infected_HW, lung = infection_HW.astype(bool) & lung_HW.astype(bool), lung_HW.astype(bool)
    middle = _middle(lung)
    sides = {"left": np.s_[:, :middle], "right": np.s_[:, middle:]}
    areas = {name: int(np.count_nonzero(lung[side])) for name, side in sides.items()}
    zones = {
        f"{name}-{zone}": share
        for name, side in sides.items()
        for zone, share in zip(ZONES, _thirds(infected_HW[side], lung[side]), strict=True)
    }
    area = sum(areas.values())
    return Severity(
        whole=_share(infected_HW, lung),
        left=_share(infected_HW[sides["left"]], lung[sides["left"]]),
        right=_share(infected_HW[sides["right"]], lung[sides["right"]]),
        zones=zones,
        plausible=LEAST_LUNG <= area / lung.size <= MOST_LUNG
        and bool(2 * lung[:, middle].sum() < area / lung.any(0).sum())
        and min(areas.values()) >= LEAST_SIDE * max(areas.values()),
    )


def _middle(lung_HW: NDArray[np.bool_]) -> int:
    """The column between the lungs: of the middle third of the lungs' columns, the one with the least lung."""
    columns = np.flatnonzero(lung_HW.any(0))
    if not len(columns):
        return int(lung_HW.shape[1]) // 2
    first, last = int(columns[0]), int(columns[-1]) + 1
    begin, end = first + (last - first) // 3, last - (last - first) // 3
    amounts = lung_HW[:, begin:end].sum(0)
    least = np.flatnonzero(amounts == amounts.min())
    return begin + int(least[len(least) // 2])


def _thirds(infected_HW: NDArray[np.bool_], lung_HW: NDArray[np.bool_]) -> list[float | None]:
    rows = np.flatnonzero(lung_HW.any(1))
    if not len(rows):
        return [None] * len(ZONES)
    first, height = int(rows[0]), int(rows[-1]) + 1 - int(rows[0])
    cuts = [first + height * part // len(ZONES) for part in range(len(ZONES) + 1)]
    return [_share(infected_HW[a:b], lung_HW[a:b]) for a, b in pairwise(cuts)]


def _share(infected: NDArray[np.bool_], lung: NDArray[np.bool_]) -> float | None:
    area = int(np.count_nonzero(lung))
    return int(np.count_nonzero(infected)) / area if area else None

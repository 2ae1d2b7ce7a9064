"""The films of a split, in storage or decoded in the object store. No torch: read tasks start faster."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import ray
from numpy.typing import NDArray

from covseg_ray.engine.session import counted
from covseg_ray.engine.training.sampling import Portion, Shares, within_unit
from covseg_ray.segmentation.training.targets import targets
from covseg_ray.storage.datasets.read import Films, Unit, read_unit
from covseg_ray.storage.runs.teacher_maps import read_maps


@dataclass(frozen=True)
class Source:
    """The films of a split: where they are, and, when they were cached, a reference to each unit's decoded films. With
    ``shares``, an epoch leaves out and repeats some of them. ``maps`` is the folder of the teachers' maps of them, if
    there are any."""

    dataset: str
    units: tuple[Unit, ...]
    classes: tuple[str, ...]
    cached: tuple[ray.ObjectRef[Films], ...] = ()
    shares: Shares | None = None
    maps: str = ""
    cached_maps: tuple[ray.ObjectRef[NDArray[np.uint8]], ...] = ()

    @property
    def rows(self) -> int:
        return sum(len(unit.rows) for unit in self.units)

    def films(self, unit: int) -> Films:
        """The decoded films of one unit, from the object store where they are kept, else from storage."""
        if self.cached:
            return ray.get(self.cached[unit])
        return read_unit(self.dataset, self.units[unit], with_lung="lung" in self.classes, lung_needed=False)

    def rows_in(self, unit: int, seed: int | None, epoch: int) -> NDArray[np.int64]:
        """The rows of one unit in one epoch, as `drawn` gives them."""
        if self.shares is None or seed is None:
            return np.arange(len(self.units[unit].rows))
        return self.shares.drawn(seed, epoch)[unit]

    def drawn(self, seed: int | None, epoch: int) -> list[NDArray[np.int64]]:
        """The rows of each unit in one epoch, before they are shuffled; each once without a seed, as for validation."""
        if self.shares is None or seed is None:
            return [self.rows_in(unit, seed, epoch) for unit in range(len(self.units))]
        return self.shares.drawn(seed, epoch)

    def maps_of(self, unit: int) -> NDArray[np.uint8]:
        """The teachers' maps of one unit's films, uint8 ``[N, C-1, H, W]``, as `films` finds the films."""
        if self.cached_maps:
            return ray.get(self.cached_maps[unit])
        return read_maps(self.maps, unit)


def cache(source: Source) -> Source:
    """The same source with every unit decoded into the object store, by tasks all over the cluster."""
    load, load_maps, units = ray.remote(Source.films), ray.remote(Source.maps_of), range(len(source.units))
    return replace(
        source,
        cached=tuple(load.remote(source, unit) for unit in units),
        cached_maps=tuple(load_maps.remote(source, unit) for unit in units if source.maps),
    )


def fits_in_object_store(source: Source, pixels: int) -> bool:
    """Whether the decoded films, a byte a pixel for the image, each mask and each of the teachers' maps, take at most
    30 % of the store."""
    arrays = (3 if "lung" in source.classes else 2) + (len(source.classes) - 1 if source.maps else 0)
    return source.rows * pixels * arrays <= 0.3 * counted("object_store_memory")


def fetch(portion: dict[str, NDArray[Any]], source: Source, shuffle_seed: int | None) -> dict[str, NDArray[Any]]:
    """One portion's films as columns; runs in a Ray task."""
    epoch, unit, start, stop = (int(portion[key][0]) for key in Portion._fields)
    films = source.films(unit)
    rows = source.rows_in(unit, shuffle_seed, epoch)
    chosen = rows[within_unit(len(rows), shuffle_seed, epoch, unit)[start:stop]]
    lungs_NHW = None if films.lungs_NHW is None else films.lungs_NHW[chosen]
    maps = {"maps": source.maps_of(unit)[chosen]} if source.maps else {}
    return maps | {
        "image": films.images_NHW[chosen],
        "target": targets(films.masks_NHW[chosen], lungs_NHW, source.classes),
        "row": sum(len(u.rows) for u in source.units[:unit]) + chosen,
        "epoch": np.full(len(chosen), epoch),
    }

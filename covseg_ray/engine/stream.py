"""Shards -> Ray Data -> batches, in an order that depends on the seed, the epoch and the rank alone.

The shards are read in units, the row groups of their files. An epoch's order is a permutation of the units and one within
each unit; ``pack`` wrote the rows in the order of a hash, so a unit is a fair sample of the split. The order is cut into
one stretch a rank. Nothing depends on which task finishes first or on how often a run was interrupted, so a run that is
resumed sees exactly the batches that it would have seen.

One Ray Data execution feeds all the epochs of a run: while the last batches of an epoch are trained on, the first of the
next are on their way.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import ray
import torch
from numpy.typing import NDArray

from covseg_ray.storage.reading import Films, Unit, read_unit

class Batch(NamedTuple):
    """``images_NHW`` uint8 and ``targets_NHW`` uint8 class indices on the worker's device; ``rows_N`` int64, each film's
    place in ``Source.image_ids`` order (unit after unit)."""

    epoch: int
    images_NHW: torch.Tensor
    targets_NHW: torch.Tensor
    rows_N: torch.Tensor


@dataclass(frozen=True)
class Source:
    """The films of a split: where they are, and, when they were cached, a reference to each unit's decoded films."""

    dataset: str
    units: tuple[Unit, ...]
    classes: tuple[str, ...]
    cached: tuple[ray.ObjectRef[Films], ...] = ()

    @property
    def rows(self) -> int:
        return sum(len(unit.rows) for unit in self.units)

    def films(self, unit: int) -> Films:
        """The decoded films of one unit, from the object store where they are kept, else from storage."""
        if self.cached:
            films: Films = ray.get(self.cached[unit])
            return films
        return read_unit(self.dataset, self.units[unit], with_lung="lung" in self.classes)


class Portion(NamedTuple):
    """Films ``start`` to ``stop`` of one unit's order in one epoch."""

    epoch: int
    unit: int
    start: int
    stop: int


def cache(source: Source) -> Source:
    """The same source with every unit decoded into the object store, by tasks all over the cluster."""
    load = ray.remote(Source.films)
    return Source(
        source.dataset,
        source.units,
        source.classes,
        tuple(load.remote(source, unit) for unit in range(len(source.units))),
    )


def fits_in_object_store(source: Source, pixels: int, share: float = 0.3) -> bool:
    """Whether the decoded films (image and masks, a byte a pixel each) take at most ``share`` of the cluster's store."""
    arrays = 3 if "lung" in source.classes else 2
    return source.rows * pixels * arrays <= share * ray.cluster_resources().get("object_store_memory", 0)


def shuffled_share(sizes: Sequence[int], seed: int, epoch: int, rank: int, world: int, batch: int) -> list[Portion]:
    """A rank's films of one epoch: every rank the same number, a multiple of its share of the global ``batch``.

    ``sizes`` are the films in each unit. The films over at the end, fewer than a batch, differ from epoch to epoch."""
    per_rank = sum(sizes) // batch * (batch // world)
    order = np.random.default_rng((seed, epoch)).permutation(len(sizes))
    return _stretch(sizes, order.tolist(), epoch, rank * per_rank, (rank + 1) * per_rank)


def plain_share(sizes: Sequence[int], epoch: int, rank: int, world: int) -> list[Portion]:
    """A rank's films for validation: each film in exactly one rank's share, in the order of the shards."""
    total = sum(sizes)
    return _stretch(sizes, range(len(sizes)), epoch, rank * total // world, (rank + 1) * total // world)


def _stretch(sizes: Sequence[int], order: Iterable[int], epoch: int, first: int, last: int) -> list[Portion]:
    """Cut films ``first`` to ``last`` out of the units laid end to end in ``order``."""
    portions, passed = [], 0
    for unit in order:
        start, stop = max(first - passed, 0), min(last - passed, sizes[unit])
        if start < stop:
            portions.append(Portion(epoch, unit, start, stop))
        passed += sizes[unit]
    return portions


def batches(
    source: Source, portions: Sequence[Portion], size: int, device: torch.device, shuffle_seed: int | None = None
) -> Iterator[Batch]:
    """Batches of ``size`` films, in order; the last of an epoch may be smaller. ``shuffle_seed`` also shuffles within units."""
    if not portions:
        return
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = True
    dataset = ray.data.from_items([portion._asdict() for portion in portions], override_num_blocks=len(portions))
    films = dataset.map_batches(
        _fetch,
        batch_size=1,
        fn_kwargs={"source": source, "shuffle_seed": shuffle_seed},
    )
    blocks = films.iter_torch_batches(batch_size=None, prefetch_batches=2, device=str(device))
    yield from regroup(blocks, size)


def _fetch(portion: dict[str, NDArray[Any]], source: Source, shuffle_seed: int | None) -> dict[str, NDArray[Any]]:
    """One portion's films as columns; runs in a Ray task."""
    epoch, unit, start, stop = (int(portion[key][0]) for key in Portion._fields)
    films = source.films(unit)
    order = np.arange(len(films.image_ids))
    if shuffle_seed is not None:
        order = np.random.default_rng((shuffle_seed, epoch, unit)).permutation(order)
    chosen = order[start:stop]
    lungs_NHW = None if films.lungs_NHW is None else films.lungs_NHW[chosen]
    return {
        "image": films.images_NHW[chosen],
        "target": targets(films.masks_NHW[chosen], lungs_NHW, source.classes),
        "row": sum(len(u.rows) for u in source.units[:unit]) + chosen,
        "epoch": np.full(len(chosen), epoch),
    }


def targets(
    masks_NHW: NDArray[np.uint8], lungs_NHW: NDArray[np.uint8] | None, classes: Sequence[str]
) -> NDArray[np.uint8]:
    """Class indices [N, H, W]: infection over lung over background (infection lies inside the lung)."""
    found_NHW = np.zeros(masks_NHW.shape, np.uint8)
    if "lung" in classes and lungs_NHW is not None:
        found_NHW[lungs_NHW > 0] = classes.index("lung")
    found_NHW[masks_NHW > 0] = classes.index("infection")
    return found_NHW


def regroup(blocks: Iterable[dict[str, torch.Tensor]], size: int) -> Iterator[Batch]:
    """Blocks of any length -> batches of ``size`` films, none of which reaches over the end of an epoch."""
    held: dict[str, torch.Tensor] = {}
    for block in blocks:
        held = {key: torch.cat([held[key], block[key]]) for key in block} if held else dict(block)
        while (stop := _first_batch(held["epoch"], size)) is not None:
            yield _batch({key: value[:stop] for key, value in held.items()})
            held = {key: value[stop:] for key, value in held.items()}
    if held and len(held["epoch"]):
        yield _batch(held)


def _first_batch(epochs_N: torch.Tensor, size: int) -> int | None:
    """How many of the first films are a whole batch or the rest of an epoch; None when more must come to tell."""
    if not len(epochs_N):
        return None
    same = int((epochs_N == epochs_N[0]).sum())
    if same >= size:
        return size
    return same if same < len(epochs_N) else None


def _batch(columns: dict[str, torch.Tensor]) -> Batch:
    return Batch(int(columns["epoch"][0]), columns["image"], columns["target"], columns["row"])

"""The order of the films and their ranks: a function of the seed, the epoch and the rank alone.

The films of a split lie in units, the row groups of its files. An epoch's order is a permutation of the units and one
within each unit; ``pack`` wrote the rows in the order of a hash, so a unit is a fair sample of the split. The order is
cut into one stretch a rank. Nothing depends on which task finishes first or on how often a run was interrupted, so a
run that is resumed sees exactly the batches that it would have seen.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Portion(NamedTuple):
    """Films ``start`` to ``stop`` of one unit's order in one epoch."""

    epoch: int
    unit: int
    start: int
    stop: int


def shuffled_share(sizes: Sequence[int], seed: int, epoch: int, rank: int, world: int, batch: int) -> list[Portion]:
    """A rank's films of one epoch: so many times its share of the global ``batch`` as there are batches.

    ``sizes`` are the films in each unit. The films over at the end, fewer than a batch, differ from epoch to epoch."""
    steps = sum(sizes) // batch
    order = np.random.default_rng((seed, epoch)).permutation(len(sizes))
    first, last = batch * rank // world, batch * (rank + 1) // world
    return _stretch(sizes, order.tolist(), epoch, steps * first, steps * last)


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


def within_unit(films: int, seed: int | None, epoch: int, unit: int) -> NDArray[np.int64]:
    """The order of a unit's films in one epoch; as they are stored without a seed."""
    if seed is None:
        return np.arange(films)
    return np.random.default_rng((seed, epoch, unit)).permutation(films)

"""The order of the films and their ranks: a function of the seed, the epoch and the rank alone.

The films of a split lie in units, the row groups of its files. An epoch's order is a permutation of the units and one
within each unit; ``pack`` wrote the rows in the order of a hash, so a unit is a fair sample of the split. The order is
cut into one stretch a rank. Where groups of films are to have other shares of an epoch than of the split, films are
left out or repeated before that. Nothing depends on which task finishes first or on how often a run was interrupted, so
a run that is resumed sees exactly the batches that it would have seen.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Portion(NamedTuple):
    """Films ``start`` to ``stop`` of one unit's order in one epoch."""

    epoch: int
    unit: int
    start: int
    stop: int


@dataclass(frozen=True)
class Shares:
    """``groups`` holds each film's group, an index of ``weights``, for each unit; ``weights`` is how often an epoch has
    a film of the group, on average, in the epochs up to ``last_epoch``. Later ones have each film once."""

    groups: tuple[NDArray[np.uint8], ...]
    weights: tuple[float, ...]
    last_epoch: int

    def drawn(self, seed: int, epoch: int) -> list[NDArray[np.int64]]:
        """The rows of each unit in one epoch, in order, repeats among them: over all units as many as there are films.

        Systematic sampling: a film comes as often as its weight says, rounded down or up, and the films of a group
        together within one of their share."""
        cuts = np.cumsum([len(each) for each in self.groups])
        if epoch > self.last_epoch:
            return [np.arange(len(each)) for each in self.groups]
        found: list[NDArray[np.int64]] = []
        weights_F = np.array(self.weights)[np.concatenate(self.groups)]
        order_F = np.argsort(np.concatenate(self.groups), kind="stable")  # group after group
        ends_F = np.cumsum(weights_F[order_F]) * (len(weights_F) / weights_F.sum())
        ends_F[-1] = len(weights_F)
        marks_F = np.floor(ends_F + np.random.default_rng((seed, epoch, 0, 0)).random())
        times_F = np.empty(len(weights_F), np.int64)
        times_F[order_F] = np.diff(marks_F, prepend=0.0)
        for times in np.split(times_F, cuts[:-1]):
            found.append(np.repeat(np.arange(len(times)), times))
        return found


def weights_for(natural: Sequence[int], wanted: Sequence[float | None]) -> tuple[float, ...]:
    """How often an epoch has a film of each group so that the groups get the ``wanted`` shares of it; groups without
    one (None) divide what is left as they divide the films. ``natural`` counts each group's films, 1 or more."""
    rest = 1 - sum(share for share in wanted if share is not None)
    others = sum(count for count, share in zip(natural, wanted, strict=True) if share is None)
    shares = [rest * count / others if share is None else share for count, share in zip(natural, wanted, strict=True)]
    return tuple(share * sum(natural) / count for count, share in zip(natural, shares, strict=True))


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

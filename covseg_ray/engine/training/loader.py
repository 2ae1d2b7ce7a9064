"""Films -> Ray Data -> batches on a worker's device.

One Ray Data execution feeds all the epochs of a run: while the last batches of an epoch are trained on, the first of
the next are on their way.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import ray
import torch

from covseg_ray.engine.data_context import Rest, context
from covseg_ray.engine.session import counted
from covseg_ray.engine.training.sampling import Portion
from covseg_ray.engine.training.split import Source, fetch

# At most so many tasks fetch a run's portions: each costs the scheduler some memory.
MOST_TASKS = 5000
# CPUs that Ray counts for a fetching task: a stream can take twice its share while the others are idle.
FETCH_CPUS = 0.5


class Batch(NamedTuple):
    """``images_NHW`` uint8 and ``targets_NHW`` uint8 class indices on the worker's device; ``rows_N`` int64 on the CPU,
    each film's place in the source, unit after unit. ``maps_NCHW`` are the teachers', where the source has them, on the
    device: uint8 probabilities of all classes but background in 255ths."""

    epoch: int
    images_NHW: torch.Tensor
    targets_NHW: torch.Tensor
    rows_N: torch.Tensor
    maps_NCHW: torch.Tensor | None = None


def batches(
    source: Source,
    portions: Sequence[Portion],
    size: int,
    device: torch.device,
    shuffle_seed: int | None = None,
    streams: int = 1,
) -> Iterator[Batch]:
    """Batches of ``size`` films, in order; the last of an epoch may be smaller. With ``shuffle_seed`` a unit's films
    are shuffled too. ``streams`` is how many there are at a time: they share the cluster's CPUs.

    Left to itself, Ray Data reserves all CPUs for the stream that asks first, and the others get one unit at a time."""
    if not portions:
        return
    settings = context(Rest)
    settings.execution_options.preserve_order = True
    cpus = counted("CPU") or 1.0
    limits = settings.execution_options.resource_limits
    settings.execution_options.resource_limits = limits.copy(cpu=cpus / streams)
    with ray.data.DataContext.current(settings):
        dataset = ray.data.from_items(
            [portion._asdict() for portion in portions], override_num_blocks=min(len(portions), MOST_TASKS)
        )
        films = dataset.map_batches(
            partial(fetch, source=source, shuffle_seed=shuffle_seed), batch_size=1, num_cpus=FETCH_CPUS
        )
    blocks = films.iter_torch_batches(batch_size=None, prefetch_batches=2, device="cpu")
    for batch in regroup(blocks, size):
        yield to_device(batch, device)


def regroup(blocks: Iterable[dict[str, torch.Tensor]], size: int) -> Iterator[Batch]:
    """Blocks of any length -> batches of ``size`` films, none of which crosses the end of an epoch."""
    held: dict[str, torch.Tensor] = {}
    for block in blocks:
        held = {key: torch.cat([held[key], block[key]]) for key in block} if held else dict(block)
        while (stop := _first_batch(held["epoch"], size)) is not None:
            yield _batch({key: value[:stop] for key, value in held.items()})
            held = {key: value[stop:] for key, value in held.items()}
    if held and len(held["epoch"]):
        yield _batch(held)


def to_device(batch: Batch, device: torch.device) -> Batch:
    """Copy the batch to its device, in uint8 and from pinned memory, without waiting for the copy."""
    if device.type == "cpu":
        return batch
    pixels = {"images_NHW": batch.images_NHW, "targets_NHW": batch.targets_NHW, "maps_NCHW": batch.maps_NCHW}
    there: dict[str, Any] = {
        name: each.pin_memory().to(device, non_blocking=True) for name, each in pixels.items() if each is not None
    }
    return batch._replace(**there)


def _first_batch(epochs_N: torch.Tensor, size: int) -> int | None:
    """How many of the first films are a whole batch or the rest of an epoch; None where the next block decides."""
    if not len(epochs_N):
        return None
    same = int((epochs_N == epochs_N[0]).sum())
    if same >= size:
        return size
    return same if same < len(epochs_N) else None


def _batch(columns: dict[str, torch.Tensor]) -> Batch:
    epoch = int(columns["epoch"][0])
    return Batch(epoch, columns["image"], columns["target"], columns["row"], columns.get("maps"))

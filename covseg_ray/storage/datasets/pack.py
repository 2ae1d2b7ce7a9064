"""Samples of a layout, or phantoms, become a dataset; a film that cannot be packed is named, and the rest go on."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from covseg_ray.errors import DatasetError, StorageError
from covseg_ray.radiograph.decode import decode
from covseg_ray.radiograph.film import Rejected
from covseg_ray.radiograph.geometry import Resize, standardise, standardise_mask
from covseg_ray.radiograph.masks import binarise
from covseg_ray.radiograph.phantom import make_phantom
from covseg_ray.storage.datasets.layouts import Sample, read_layout
from covseg_ray.storage.datasets.shards import (
    DatasetInfo,
    Reject,
    ShardRow,
    refuse_existing,
    shard_order,
    write_dataset,
)
from covseg_ray.storage.filesystem import join, read_bytes

READERS = 8
READ_AHEAD = 64
VAL_EVERY = 5

Given = TypeVar("Given")
Made = TypeVar("Made")
Progress = Callable[[int, int], None]


def pack(
    source: str,
    dataset: str,
    *,
    layout: str | None = None,
    size: int = 256,
    resize: Resize = "stretch",
    exclude: frozenset[str] = frozenset(),
    progress: Progress | None = None,
) -> DatasetInfo:
    """Write the films at ``source`` as a dataset of ``size`` x ``size`` squares; what cannot be packed is ``rejected``.

    Raises DatasetError where nothing can be packed, a dataset is already there, or ``exclude`` names no film at all.
    """
    refuse_existing(dataset)
    found = read_layout(source, layout)
    samples = [sample for sample in found.samples if sample.image_id not in exclude]
    if exclude and len(samples) == len(found.samples):
        raise DatasetError(f"none of the {len(exclude)} excluded image ids is in {source}; check the list")
    samples.sort(key=lambda sample: shard_order(sample.split, sample.image_id))
    return write_dataset(
        with_progress(
            map_in_threads(lambda sample: film(found.root, sample, size, resize), samples), len(samples), progress
        ),
        dataset,
        size=size,
        resize=resize,
        layout=found.name,
        counts=Counter(sample.split for sample in samples),
    )


def synthesise(
    dataset: str, count: int, *, seed: int = 0, size: int = 256, progress: Progress | None = None
) -> DatasetInfo:
    """Write ``count`` phantoms as a dataset, every fifth of them in val."""
    places = [(f"phantom-{seed}-{index:06d}", "val" if index % VAL_EVERY == 4 else "train") for index in range(count)]
    order = sorted(range(count), key=lambda index: shard_order(places[index][1], places[index][0]))

    def row(index: int) -> ShardRow:
        phantom = make_phantom(seed, index, size)
        image_id, split = places[index]
        return ShardRow(
            image_id,
            split,
            phantom.label,
            phantom.image,
            phantom.infection,
            phantom.lung,
            source=f"phantom:{seed}:{index}",
        )

    counts = Counter(split for _, split in places)
    rows = with_progress(map_in_threads(row, order), count, progress)
    return write_dataset(rows, dataset, size=size, layout="phantom", counts=counts)


def read_exclusions(uri: str) -> frozenset[str]:
    """The image ids of a list: one a line, ``#`` at the start of a line or after a blank begins a comment."""
    try:
        text = read_bytes(uri).decode()
    except UnicodeDecodeError as error:
        raise DatasetError(f"{uri}: not a list of image ids in UTF-8 ({error})") from error
    lines = (f" {line}".split(" #")[0].strip() for line in text.splitlines())
    return frozenset(line for line in lines if line)


def film(root: str, sample: Sample, size: int, resize: Resize) -> ShardRow | Reject:
    """Read, check and standardise one sample. Raises StorageError where storage itself fails."""
    try:
        image = _pixels(root, sample.image, "image")
        if sample.mask is None:
            return Reject(sample.image, "no-mask", "no mask of the same name; add one or leave the film out")
        mask_HW = _mask(root, sample.mask, "mask", image.shape)
        lung_HW = _mask(root, sample.lung, "lung", image.shape) if sample.lung else None
    except _UnfitError as unfit:
        return Reject(sample.image, unfit.reason, unfit.detail)
    return ShardRow(
        image_id=sample.image_id,
        split=sample.split,
        label=sample.label,
        image_HW=standardise(image, size, resize)[0],
        mask_HW=standardise_mask(mask_HW, size, resize),
        lung_HW=None if lung_HW is None else standardise_mask(lung_HW, size, resize),
        patient_id=sample.patient_id,
        source=sample.image,
    )


class _UnfitError(Exception):
    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


def _pixels(root: str, path: str, kind: str) -> NDArray[np.uint8] | NDArray[np.uint16]:
    prefix = "" if kind == "image" else f"{kind}-"
    try:
        data = read_bytes(path if "://" in path or path.startswith("/") else join(root, path))
    except StorageError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            raise _UnfitError(f"{prefix}missing", f"{path} is not there") from error
        raise
    decoded = decode(data)
    if isinstance(decoded, Rejected):
        raise _UnfitError(f"{prefix}{decoded.reason}", decoded.detail)
    return decoded.pixels


def _mask(root: str, path: str, kind: str, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    pixels_HW = _pixels(root, path, kind)
    if pixels_HW.shape != shape:
        sizes = [" x ".join(map(str, each)) for each in (pixels_HW.shape, shape)]
        raise _UnfitError(f"{kind}-size", f"the {kind} is {sizes[0]}, the image {sizes[1]} (height x width)")
    try:
        return binarise(pixels_HW)
    except DatasetError as error:
        raise _UnfitError(f"{kind}-not-binary", str(error)) from error


def map_in_threads(function: Callable[[Given], Made], items: Iterable[Given]) -> Iterator[Made]:
    """``function`` over ``items`` in several threads and in order, never more than a few results ahead."""
    remaining = iter(items)
    with ThreadPoolExecutor(READERS) as pool:
        pending: deque[Future[Made]] = deque(pool.submit(function, item) for item in islice(remaining, READ_AHEAD))
        try:
            while pending:
                result = pending.popleft().result()
                pending.extend(pool.submit(function, item) for item in islice(remaining, 1))
                yield result
        finally:
            for future in pending:
                future.cancel()


def with_progress(items: Iterable[Given], total: int, progress: Progress | None) -> Iterator[Given]:
    """``items``, telling ``progress`` at each how many of ``total`` have come."""
    for number, item in enumerate(items, start=1):
        if progress:
            progress(number, total)
        yield item

"""Pack the films of sources, or phantoms, as a dataset. A film that cannot be packed is listed as rejected."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from covseg_ray.errors import DatasetError, StorageError
from covseg_ray.radiograph.decode import decode
from covseg_ray.radiograph.film import RefusedError, Rejected
from covseg_ray.radiograph.geometry import Resize, standardise, standardise_mask
from covseg_ray.radiograph.masks import binarise
from covseg_ray.radiograph.phantom import make_phantom
from covseg_ray.storage.datasets.info import DatasetInfo, Reject
from covseg_ray.storage.datasets.shards import ShardRow, refuse_existing, shard_order, write_dataset
from covseg_ray.storage.datasets.sources import SourceFilm, name_sources, read_sources
from covseg_ray.storage.filesystem import join, read_bytes

READERS = 8
READ_AHEAD = 64
VAL_EVERY = 5

Given = TypeVar("Given")
Made = TypeVar("Made")
Progress = Callable[[int, int], None]


def pack(
    sources: str | Sequence[str],
    dataset: str,
    *,
    names: Sequence[str] = (),
    layout: str | None = None,
    size: int = 256,
    resize: Resize = "stretch",
    exclude: frozenset[str] = frozenset(),
    progress: Progress | None = None,
) -> DatasetInfo:
    """Write the films at one or several sources as a dataset of ``size`` x ``size`` squares; ``rejected`` lists the
    films left out.

    ``layout`` is that of every source, and recognised by default. Of several sources, or with ``names``, image ids
    begin with the name of their source (:func:`name_sources`). Raises DatasetError where nothing can be packed, a
    dataset is already there, or ``exclude`` names no film at all, and UsageError for names that cannot be used.
    """
    refuse_existing(dataset)
    named = name_sources([sources] if isinstance(sources, str) else sources, names)
    layouts, found = read_sources(named, layout)
    films = [film for film in found if film.image_id not in exclude]
    if exclude and len(films) == len(found):
        where = ", ".join(source.uri for source in named)
        raise DatasetError(f"none of the {len(exclude)} excluded image ids is in {where}; check the list")
    films.sort(key=lambda film: shard_order(film.sample.split, film.image_id))
    return write_dataset(
        map_in_threads(lambda film: read_film(film, size, resize), films, progress),
        dataset,
        size=size,
        resize=resize,
        layout=layouts,
        counts=Counter(film.sample.split for film in films),
        named_sources=bool(named[0].name),
    )


def synthesise(
    dataset: str, count: int, *, seed: int = 0, size: int = 256, progress: Progress | None = None
) -> DatasetInfo:
    """Write ``count`` phantoms as a dataset; every fifth is in val."""
    ids = [(f"phantom-{seed}-{index:06d}", "val" if index % VAL_EVERY == 4 else "train") for index in range(count)]
    order = sorted(range(count), key=lambda index: shard_order(ids[index][1], ids[index][0]))

    def row(index: int) -> ShardRow:
        phantom = make_phantom(seed, index, size)
        image_id, split = ids[index]
        return ShardRow(
            image_id,
            split,
            phantom.label,
            phantom.image,
            phantom.infection,
            phantom.lung,
            source=f"phantom:{seed}:{index}",
        )

    counts = Counter(split for _, split in ids)
    return write_dataset(map_in_threads(row, order, progress), dataset, size=size, layout="phantom", counts=counts)


def read_exclusions(uri: str) -> frozenset[str]:
    """The image ids of a list, one per line; ``#`` at the start of a line or after a space begins a comment."""
    try:
        text = read_bytes(uri).decode()
    except UnicodeDecodeError as error:
        raise DatasetError(f"{uri}: not a list of image ids in UTF-8 ({error})") from error
    lines = (f" {line}".split(" #")[0].strip() for line in text.splitlines())
    return frozenset(line for line in lines if line)


def read_film(film: SourceFilm, size: int, resize: Resize) -> ShardRow | Reject:
    """Read, check and standardise one film. Raises StorageError where storage itself fails."""
    root, sample = film.root, film.sample
    try:
        image = _pixels(root, sample.image, "image")
        if sample.mask is None:
            return Reject(film.path, "no-mask", "no mask of the same name; add one or leave the film out")
        mask_HW = _mask(root, sample.mask, "mask", image.shape)
        lung_HW = _mask(root, sample.lung, "lung", image.shape) if sample.lung else None
    except RefusedError as refusal:
        return Reject(film.path, refusal.rejected.reason, refusal.rejected.detail)
    return ShardRow(
        image_id=film.image_id,
        split=sample.split,
        label=sample.label,
        image_HW=standardise(image, size, resize)[0],
        mask_HW=standardise_mask(mask_HW, size, resize),
        lung_HW=None if lung_HW is None else standardise_mask(lung_HW, size, resize),
        patient_id=sample.patient_id,
        source=film.path,
    )


def _pixels(root: str, path: str, kind: str) -> NDArray[np.uint8] | NDArray[np.uint16]:
    prefix = "" if kind == "image" else f"{kind}-"
    try:
        data = read_bytes(path if "://" in path or path.startswith("/") else join(root, path))
    except StorageError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            raise RefusedError(f"{prefix}missing", f"{path} is not there") from error
        raise
    decoded = decode(data)
    if isinstance(decoded, Rejected):
        raise RefusedError(f"{prefix}{decoded.reason}", decoded.detail)
    return decoded.pixels


def _mask(root: str, path: str, kind: str, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    pixels_HW = _pixels(root, path, kind)
    if pixels_HW.shape != shape:
        sizes = [" x ".join(map(str, each)) for each in (pixels_HW.shape, shape)]
        raise RefusedError(f"{kind}-size", f"the {kind} is {sizes[0]}, the image {sizes[1]} (height x width)")
    try:
        return binarise(pixels_HW)
    except DatasetError as error:
        raise RefusedError(f"{kind}-not-binary", str(error)) from error


def map_in_threads(
    function: Callable[[Given], Made], items: Collection[Given], progress: Progress | None = None
) -> Iterator[Made]:
    """Apply ``function`` to ``items`` in several threads; results in order, at most ``READ_AHEAD`` of them ahead. For
    each, ``progress`` is called with how many of all items there were so far."""
    remaining = iter(items)
    with ThreadPoolExecutor(READERS) as pool:
        pending: deque[Future[Made]] = deque(pool.submit(function, item) for item in islice(remaining, READ_AHEAD))
        done = 0
        try:
            while pending:
                result = pending.popleft().result()
                pending.extend(pool.submit(function, item) for item in islice(remaining, 1))
                done += 1
                if progress:
                    progress(done, len(items))
                yield result
        finally:
            pool.shutdown(cancel_futures=True)

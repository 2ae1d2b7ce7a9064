"""Read Parquet shards: the content of a dataset, the films of it that are meant, the units in which they are read, and
the arrays of one unit.

A unit is one row group, the smallest part that Parquet reads. ``dataset.json`` is the list of shards: a file
that it does not name is never read.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

from covseg_ray.errors import DatasetError, UsageError, first_line
from covseg_ray.radiograph.decode import decode
from covseg_ray.radiograph.film import Rejected
from covseg_ray.radiograph.masks import decode_png1
from covseg_ray.storage.datasets.info import DATASET_FILE, SCHEMA_VERSION, DatasetInfo, Shard, source_name
from covseg_ray.storage.filesystem import Location, exists, join, locate, parquet_damage, read_bytes, translated

PARALLEL_LABELS = 8


@dataclass(frozen=True, slots=True)
class Unit:
    """Rows of one row group: ``path`` relative to the dataset, ``rows`` the positions in the group that are wanted."""

    path: str
    row_group: int
    rows: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Films:
    """Films of a unit: uint8 images [N, H, W], 0/1 uint8 masks of the same shape."""

    image_ids: list[str]
    labels: list[str]
    images_NHW: NDArray[np.uint8]
    masks_NHW: NDArray[np.uint8]
    patient_ids: list[str | None]
    lungs_NHW: NDArray[np.uint8] | None = None


@dataclass(frozen=True)
class Subset:
    """The films of one split of the dataset at the URI ``dataset``.

    With ``labels``, only films with one of these labels; ``exclude`` holds the image ids of films to leave out.

    Raises:
        UsageError: the dataset or the split has no name, or ``labels`` is empty or one string.
    """

    dataset: str
    split: str = "val"
    labels: Sequence[str] | None = None
    exclude: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        if not self.dataset or not self.split:
            raise UsageError("dataset and split: must not be empty; give the URI of a packed dataset and a split of it")
        if self.labels is not None and (isinstance(self.labels, str) or not self.labels):
            raise UsageError(f"labels: must be a list of at least one label, not {self.labels!r}; None is all films")

    def all_units(self) -> list[Unit]:
        """The units of the split and the labels, before exclusions. Raises DatasetError for an unknown one."""
        return list_units(self.dataset, self.split, self.labels)

    def units(self) -> list[Unit]:
        """The units of the films. Raises DatasetError for an unknown split or label, or where ``exclude`` names none of
        the films or all of them."""
        units = self.all_units()
        return exclude_films(self.dataset, units, self.exclude) if self.exclude else units

    def __str__(self) -> str:
        return f"{self.dataset}, split {self.split}, {', '.join(self.labels) if self.labels else 'all labels'}"


def read_info(uri: str) -> DatasetInfo:
    """What the dataset at ``uri`` holds. Raises StorageError where it is out of reach, DatasetError where none is."""
    if not exists(join(uri, DATASET_FILE)):
        raise DatasetError(f"{uri}: no dataset there (no {DATASET_FILE}); make one with `covseg-ray data pack`")
    try:
        document = json.loads(read_bytes(join(uri, DATASET_FILE)))
        if document["schema_version"] != SCHEMA_VERSION:
            raise ValueError(f"it says version {document['schema_version']}")
        return TypeAdapter(DatasetInfo).validate_python(document)
    except (ValueError, KeyError, TypeError) as error:
        problem = "{loc}: {msg}".format_map(error.errors()[0]) if isinstance(error, ValidationError) else error
        where = join(uri, DATASET_FILE)
        raise DatasetError(f"{where}: not a dataset of version {SCHEMA_VERSION} ({problem})") from error


def list_units(dataset_uri: str, split: str, labels: Sequence[str] | None = None) -> list[Unit]:
    """The units of ``split`` in the order of its files; with ``labels``, of such films alone.

    Without ``labels`` this reads ``dataset.json`` alone, with them the ``label`` column besides. Raises DatasetError
    for a split or a label that the dataset does not have.
    """
    info = read_info(dataset_uri)
    if split not in info.splits:
        raise DatasetError(f"{dataset_uri}: no split {split!r}; it has {', '.join(info.splits)}")
    shards = [shard for shard in info.shards if shard.split == split]
    if labels is None:
        return [
            Unit(shard.path, group, tuple(range(count)))
            for shard in shards
            for group, count in enumerate(shard.row_groups)
        ]
    unknown = sorted(set(labels) - set(info.splits[split]))
    if unknown or not labels:
        has = ", ".join(info.splits[split])
        raise DatasetError(f"{dataset_uri}: split {split!r} has no films labelled {', '.join(unknown)}; it has {has}")
    with ThreadPoolExecutor(PARALLEL_LABELS) as pool:
        found = pool.map(lambda shard: _units_with(dataset_uri, shard, set(labels)), shards)
        return [unit for units in found for unit in units]


def exclude_films(dataset_uri: str, units: Sequence[Unit], exclude: frozenset[str]) -> list[Unit]:
    """The units except the films whose ``image_id`` is in ``exclude``; reads the units' ``image_id`` column.

    Raises DatasetError where ``exclude`` names none of their films, or all of them.
    """
    with ThreadPoolExecutor(PARALLEL_LABELS) as pool:
        rest = [unit for unit in pool.map(lambda unit: _unit_without(dataset_uri, unit, exclude), units) if unit.rows]
    films, kept = (sum(len(unit.rows) for unit in each) for each in (units, rest))
    if not kept or kept == films:
        what = "all" if not kept else "none"
        raise DatasetError(
            f"{dataset_uri}: {what} of the {films} films are on the list of {len(exclude)} image ids to leave out; "
            "give a list of some of them, as `covseg-ray data audit --side SPLIT --out FILE` writes it"
        )
    return rest


def has_lungs(dataset_uri: str, units: Sequence[Unit]) -> bool:
    """Whether a film of the units has a lung mask that is not empty; reads lung masks alone, up to the first such."""
    read = ((unit, _read_groups(dataset_uri, unit.path, [unit.row_group], ["lung"])[0]["lung"]) for unit in units)
    lungs = (column[row] for unit, column in read for row in unit.rows)
    return any(stored.is_valid and decode_png1(stored.as_py()).any() for stored in lungs)


def sources_and_labels(dataset_uri: str, units: Sequence[Unit]) -> list[list[tuple[str, str]]]:
    """The source and the label of each film of each unit; the source is "" where the dataset names none."""
    named = bool(read_info(dataset_uri).sources)

    def of(unit: Unit) -> list[tuple[str, str]]:
        (table,) = _read_groups(dataset_uri, unit.path, [unit.row_group], ["source", "label"])
        sources, labels = table["source"].to_pylist(), table["label"].to_pylist()
        return [(source_name(sources[row]) if named else "", labels[row]) for row in unit.rows]

    with ThreadPoolExecutor(PARALLEL_LABELS) as pool:
        return list(pool.map(of, units))


def _unit_without(dataset_uri: str, unit: Unit, exclude: frozenset[str]) -> Unit:
    (column,) = _read_groups(dataset_uri, unit.path, [unit.row_group], ["image_id"])
    image_ids = column["image_id"].to_pylist()
    return Unit(unit.path, unit.row_group, tuple(row for row in unit.rows if image_ids[row] not in exclude))


def _units_with(dataset_uri: str, shard: Shard, labels: set[str]) -> list[Unit]:
    units = []
    for group, column in enumerate(_read_groups(dataset_uri, shard.path, range(len(shard.row_groups)), ["label"])):
        rows = tuple(row for row, label in enumerate(column["label"].to_pylist()) if label in labels)
        if rows:
            units.append(Unit(shard.path, group, rows))
    return units


def read_unit(dataset_uri: str, unit: Unit, *, with_lung: bool = False, lung_needed: bool = True) -> Films:
    """The films of ``unit``, decoded; without ``lung_needed``, a lung mask that is not there is all 0.

    Raises DatasetError where the shard's bytes are not those that were written, or a mask is missing.
    """
    columns = ["image_id", "label", "patient_id", "height", "width", "image", "image_encoding", "mask"]
    columns += ["lung"] * with_lung
    (table,) = _read_groups(dataset_uri, unit.path, [unit.row_group], columns)
    if len(unit.rows) != table.num_rows:
        table = table.take(list(unit.rows))
    shape = (int(table["height"][0].as_py()), int(table["width"][0].as_py()))
    image_ids = table["image_id"].to_pylist()
    images = [_image(*stored) for stored in zip(table["image"], table["image_encoding"], image_ids, strict=True)]
    return Films(
        image_ids=image_ids,
        labels=table["label"].to_pylist(),
        images_NHW=_stacked(images, shape, image_ids),
        masks_NHW=_masks(table, "mask", shape),
        patient_ids=table["patient_id"].to_pylist(),
        lungs_NHW=_masks(table, "lung", shape, needed=lung_needed) if with_lung else None,
    )


def open_shard(location: Location) -> Any:
    """The file, without a cache that reads ahead: Parquet asks for exact ranges, and most would be fetched again."""
    return location.fs.open(location.path, "rb", cache_type="none")


def _read_groups(dataset_uri: str, path: str, groups: Sequence[int], columns: list[str]) -> list[pa.Table]:
    location = locate(join(dataset_uri, path))
    with translated(location.uri), open_shard(location) as file:

        def damaged(error: Exception) -> Exception:
            written = next((shard.bytes for shard in read_info(dataset_uri).shards if shard.path == path), 0)
            return DatasetError(
                f"{join(dataset_uri, path)}: not the shard that was written ({file.size:,} bytes, {written:,} in "
                f"{DATASET_FILE}: {first_line(error)}); pack the dataset again under another name"
            )

        with parquet_damage(damaged):
            parquet = pq.ParquetFile(file, pre_buffer=True, page_checksum_verification=True)
            return [parquet.read_row_group(group, columns=columns) for group in groups]


def _image(stored: pa.BinaryScalar, encoding: pa.StringScalar, image_id: str) -> NDArray[Any]:
    if encoding.as_py() == "raw":
        return np.frombuffer(stored.as_buffer(), np.uint8)
    decoded = decode(stored.as_py())
    if isinstance(decoded, Rejected):
        raise DatasetError(f"{image_id}: its stored image cannot be read: {decoded.detail}; pack the dataset again")
    return decoded.pixels


def _masks(table: pa.Table, column: str, shape: tuple[int, int], *, needed: bool = True) -> NDArray[np.uint8]:
    image_ids = table["image_id"].to_pylist()
    masks = []
    for stored, image_id in zip(table[column], image_ids, strict=True):
        if needed and not stored.is_valid:
            raise DatasetError(f"{image_id}: the dataset holds no {column} of this film; pack it again with one")
        masks.append(decode_png1(stored.as_py()) if stored.is_valid else np.zeros(shape, np.uint8))
    return _stacked(masks, shape, image_ids)


def _stacked(images: list[NDArray[Any]], shape: tuple[int, int], image_ids: list[str]) -> NDArray[np.uint8]:
    stack_NHW = np.empty((len(images), *shape), np.uint8)
    for target_HW, image, image_id in zip(stack_NHW, images, image_ids, strict=True):
        if image.size != target_HW.size:
            raise DatasetError(f"{image_id}: stored {image.size} pixels where {shape[0]} x {shape[1]} were expected")
        target_HW[:] = image.reshape(shape)
    return stack_NHW

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from packed import write_rows

from covseg_ray.errors import DatasetError, StorageError
from covseg_ray.storage.datasets.info import Reject
from covseg_ray.storage.datasets.read import list_units, read_info, read_unit
from covseg_ray.storage.datasets.shards import Encoding, ShardRow, even_cuts, write_dataset

SIZE = 32
COLUMNS = ["image_id", "split", "label", "patient_id", "source", "height", "width"]
COLUMNS += ["image", "image_encoding", "mask", "lung", "sha256"]


def make_rows(count: int, split: str = "train", lung: bool = True) -> list[ShardRow]:
    rows = []
    for number in range(count):
        pixels = np.random.default_rng([number, len(split)])
        image, mask = pixels.integers(0, 256, (SIZE, SIZE), np.uint8), pixels.integers(0, 2, (SIZE, SIZE), np.uint8)
        label = ("COVID-19", "Normal")[number % 2]
        rows.append(ShardRow(f"{split}/{number}", split, label, image, mask, 1 - mask if lung else None, f"p{number}"))
    return rows


@pytest.fixture
def dataset(tmp_path: Path) -> str:
    uri = str(tmp_path / "dataset")
    write_rows(make_rows(50) + make_rows(11, "val"), uri, size=SIZE, layout="pairs")
    return uri


@pytest.mark.parametrize("encoding", ["raw", "png"])
@pytest.mark.parametrize("where", ["local", "s3"])
def test_every_film_comes_back_bit_for_bit(
    encoding: Encoding, where: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    uri = str(tmp_path / "d") if where == "local" else f"{request.getfixturevalue('bucket')}/{tmp_path.name}"
    rows = {row.image_id: row for row in make_rows(37)}
    write_rows(rows.values(), uri, size=SIZE, encoding=encoding)
    seen: Counter[str] = Counter()
    for unit in list_units(uri, "train"):
        films = read_unit(uri, unit, with_lung=True)
        assert films.lungs_NHW is not None
        for index, image_id in enumerate(films.image_ids):
            row = rows[image_id]
            seen[image_id] += 1
            assert films.labels[index] == row.label
            np.testing.assert_array_equal(films.images_NHW[index], row.image_HW)
            np.testing.assert_array_equal(films.masks_NHW[index], row.mask_HW)
            np.testing.assert_array_equal(films.lungs_NHW[index], 1 - row.mask_HW)
    assert seen == Counter(rows.keys())


def test_a_shard_is_as_the_contract_says(dataset: str) -> None:
    info = read_info(dataset)
    files = sorted(Path(dataset).rglob("*.parquet"))
    assert len([file for file in files if file.parent.name == "split=train"]) == 8
    assert [file.relative_to(dataset).as_posix() for file in files] == [shard.path for shard in info.shards]
    for file, shard in zip(files, info.shards, strict=True):
        parquet = pq.ParquetFile(file)
        assert parquet.schema_arrow.names == COLUMNS
        groups = [parquet.metadata.row_group(group) for group in range(parquet.num_row_groups)]
        assert tuple(group.num_rows for group in groups) == shard.row_groups
        assert len(groups) == min(4, sum(shard.row_groups))
        assert shard.bytes == file.stat().st_size
        assert shard.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
        for group in groups:
            for index in range(group.num_columns):
                column = group.column(index)
                assert column.compression == "UNCOMPRESSED"
                assert "DICTIONARY" not in " ".join(column.encodings)
                assert column.is_stats_set == (column.path_in_schema not in ("image", "mask", "lung"))
        for row in parquet.read().to_pylist():
            assert row["sha256"] == hashlib.sha256(row["image"]).hexdigest()
            assert (row["height"], row["width"], len(row["image"])) == (SIZE, SIZE, SIZE * SIZE)


def test_dataset_json_counts_what_was_written(dataset: str) -> None:
    document = json.loads((Path(dataset) / "dataset.json").read_text())
    assert document["splits"] == {"train": {"COVID-19": 25, "Normal": 25}, "val": {"COVID-19": 6, "Normal": 5}}
    assert document["rows"] == 61
    info = read_info(dataset)
    assert info.digest == document["digest"]
    assert info.bytes == sum(file.stat().st_size for file in Path(dataset).rglob("*.parquet"))


def test_the_same_films_in_any_order_give_the_same_digest(dataset: str, tmp_path: Path) -> None:
    shuffled = make_rows(11, "val") + make_rows(50)[::-1]
    again = write_rows(shuffled, str(tmp_path / "again"), size=SIZE)
    assert again.digest == read_info(dataset).digest
    changed = make_rows(50) + make_rows(11, "val")
    changed[7].image_HW[3, 3] ^= 1
    assert write_rows(changed, str(tmp_path / "changed"), size=SIZE).digest != again.digest


def test_rows_are_ordered_by_a_hash_of_their_id(dataset: str) -> None:
    ids = [image_id for unit in list_units(dataset, "train") for image_id in read_unit(dataset, unit).image_ids]
    assert ids == sorted(ids, key=lambda image_id: hashlib.sha256(image_id.encode()).hexdigest())
    assert ids != sorted(ids)


def test_a_label_filter_finds_each_film_once(dataset: str) -> None:
    units = list_units(dataset, "train", ["COVID-19"])
    ids = [image_id for unit in units for image_id in read_unit(dataset, unit).image_ids]
    assert sorted(ids) == sorted(f"train/{number}" for number in range(0, 50, 2))
    assert all(set(read_unit(dataset, unit).labels) == {"COVID-19"} for unit in units)


def test_without_a_filter_only_dataset_json_is_read(dataset: str) -> None:
    for file in Path(dataset).rglob("*.parquet"):
        file.unlink()
    assert sum(len(unit.rows) for unit in list_units(dataset, "train")) == 50
    with pytest.raises(StorageError, match="not found"):
        list_units(dataset, "train", ["Normal"])


@pytest.mark.parametrize(
    ("split", "labels", "text"),
    [
        ("test", None, "train, val"),
        ("train", ["Flu"], "Flu; it has COVID-19, Normal"),
        ("train", [], "it has COVID-19"),
    ],
)
def test_what_the_dataset_lacks_is_named_with_what_it_has(
    dataset: str, split: str, labels: list[str] | None, text: str
) -> None:
    with pytest.raises(DatasetError, match=text):
        list_units(dataset, split, labels)


def test_a_written_dataset_never_changes(dataset: str) -> None:
    before = {file: file.read_bytes() for file in Path(dataset).rglob("*") if file.is_file()}
    with pytest.raises(DatasetError, match="a written dataset never changes; choose another name"):
        write_rows(make_rows(9), dataset, size=SIZE)
    assert {file: file.read_bytes() for file in Path(dataset).rglob("*") if file.is_file()} == before


def test_a_run_cut_short_is_no_dataset_and_leaves_nothing_behind(tmp_path: Path) -> None:
    uri = str(tmp_path / "d")

    def cut_short() -> Iterator[ShardRow]:
        yield from sorted(make_rows(50), key=lambda row: hashlib.sha256(row.image_id.encode()).hexdigest())[:30]
        raise StorageError("gone")

    with pytest.raises(StorageError, match="gone"):
        write_dataset(cut_short(), uri, size=SIZE, counts={"train": 50})
    assert list(Path(uri).rglob("*.parquet"))
    with pytest.raises(DatasetError, match="no dataset there"):
        read_info(uri)
    write_rows(make_rows(3), uri, size=SIZE)
    assert len(list(Path(uri).rglob("*.parquet"))) == 3


@pytest.mark.parametrize("damage", ["half", "bit", "empty"])
def test_a_shard_that_changed_is_refused(dataset: str, damage: str) -> None:
    unit = list_units(dataset, "train")[0]
    file = Path(dataset) / unit.path
    data = file.read_bytes()
    pixels = data.index(read_unit(dataset, unit).images_NHW[0].tobytes())
    changed = {
        "half": data[: len(data) // 2],
        "bit": data[:pixels] + bytes([data[pixels] ^ 1]) + data[pixels + 1 :],
        "empty": b"",
    }
    file.write_bytes(changed[damage])
    with pytest.raises(DatasetError, match=r"part-00000\.parquet: not the shard that was written") as caught:
        read_unit(dataset, unit)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["<html>", "{}", '{"schema_version": 99}'])
def test_a_strange_dataset_json_is_refused(dataset: str, text: str) -> None:
    (Path(dataset) / "dataset.json").write_text(text)
    with pytest.raises(DatasetError, match="not a dataset of version 1"):
        read_info(dataset)


@pytest.mark.parametrize("key", ["size", "resize", "splits", "shards", "rejected"])
def test_a_value_of_another_type_in_dataset_json_is_named(dataset: str, key: str) -> None:
    file = Path(dataset) / "dataset.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {key: "many"}))
    with pytest.raises(DatasetError, match=key) as caught:
        read_info(dataset)
    assert "\n" not in str(caught.value)


def test_a_film_without_a_lung_mask_is_named_when_one_is_asked_for(tmp_path: Path) -> None:
    write_rows(make_rows(1, lung=False), str(tmp_path), size=SIZE)
    (unit,) = list_units(str(tmp_path), "train")
    assert read_unit(str(tmp_path), unit).lungs_NHW is None
    with pytest.raises(DatasetError, match="train/0: the dataset holds no lung"):
        read_unit(str(tmp_path), unit, with_lung=True)


def test_rejects_make_no_empty_files_and_are_remembered(tmp_path: Path) -> None:
    rows = sorted(make_rows(20), key=lambda row: hashlib.sha256(row.image_id.encode()).hexdigest())
    mixed = [row if index % 3 else Reject(row.image_id, "truncated", "cut") for index, row in enumerate(rows)]
    info = write_dataset(mixed, str(tmp_path), size=SIZE, counts={"train": 20})
    assert info.rows == 13
    assert len(info.rejected) == 7
    assert all(count > 0 for shard in info.shards for count in shard.row_groups)
    assert read_info(str(tmp_path)) == info


def test_no_film_left_is_no_dataset(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"none of 1 films could be packed; the first: a\.png: truncated, cut"):
        write_dataset([Reject("a.png", "truncated", "cut")], str(tmp_path), size=SIZE, counts={"train": 1})
    assert not list(tmp_path.iterdir())


def test_streamed_rows_out_of_order_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="shard_order"):
        write_dataset(make_rows(5, "val") + make_rows(5), str(tmp_path), size=SIZE, counts={"train": 5, "val": 5})


@pytest.mark.parametrize(
    ("rows", "row_bytes"), [(1, 10), (7, 10), (8, 10), (4660, 70_000), (3, 10**9), (1_000_003, 70_000)]
)
def test_cuts_are_even_and_small_enough(rows: int, row_bytes: int) -> None:
    target = 192 * 2**20
    cuts = even_cuts(rows, row_bytes, target, 8)
    assert sum(cuts) == rows
    assert max(cuts) - min(cuts) <= 1
    assert min(cuts) >= 1 or row_bytes > target
    assert len(cuts) >= min(8, rows)
    assert max(cuts) * row_bytes <= target + row_bytes

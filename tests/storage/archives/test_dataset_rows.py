from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from packed import write_rows

from covseg_ray.errors import DatasetError, StorageError
from covseg_ray.radiograph.film import Radiograph, Rejected
from covseg_ray.storage.archives.dataset_rows import read_rows
from covseg_ray.storage.archives.read import list_members, read_members
from covseg_ray.storage.datasets.shards import Encoding, ShardRow
from covseg_ray.storage.filesystem import join, list_files, read_bytes, write_bytes

SIZE = 24


@pytest.fixture(params=["local", "s3"])
def dataset(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "local":
        return str(tmp_path / "with blank")
    return join(request.getfixturevalue("bucket"), tmp_path.name, "with blank")


def made(dataset: str, encoding: Encoding = "raw") -> dict[str, np.ndarray]:
    images = {}
    rows = []
    for number in range(50):
        split = "val" if number % 5 == 0 else "train"
        image_HW = np.random.default_rng(number).integers(0, 256, (SIZE, SIZE), np.uint8)
        images[f"{split}/film {number}.png"] = image_HW
        rows.append(ShardRow(f"{split}/film {number}.png", split, "Normal", image_HW, image_HW // 128))
    write_rows(rows, dataset, size=SIZE, encoding=encoding)
    return images


@pytest.mark.parametrize("encoding", ["raw", "png"])
def test_each_row_is_an_input_with_its_own_id(dataset: str, encoding: Encoding) -> None:
    images = made(dataset, encoding)
    members = list(list_members(dataset))
    assert sorted(member.image_id for member in members) == sorted(images)
    assert {member.kind for member in members} == {"shard"}
    places = [(member.container, member.offset) for member in members]
    assert places == sorted(places)
    found = list(read_rows(members))
    assert [member for member, _ in found] == members
    for member, film in found:
        assert isinstance(film, Radiograph)
        np.testing.assert_array_equal(film.pixels, images[member.image_id])


def test_rows_are_read_in_the_order_asked_for(tmp_path: Path) -> None:
    images = made(str(tmp_path))
    members = list(list_members(str(tmp_path)))
    asked = [members[number] for number in np.random.default_rng(0).permutation(len(members))]
    for (member, film), wanted in zip(read_rows(asked), asked, strict=True):
        assert member == wanted
        assert isinstance(film, Radiograph)
        np.testing.assert_array_equal(film.pixels, images[wanted.name])


def test_a_film_does_not_hold_its_row_group(tmp_path: Path) -> None:
    made(str(tmp_path))
    _, film = next(iter(read_rows(list_members(str(tmp_path)))))
    assert isinstance(film, Radiograph)
    assert film.pixels.base is None or film.pixels.base.size == SIZE * SIZE


def test_damaged_and_missing_shards_are_told_and_the_others_are_read(tmp_path: Path) -> None:
    made(str(tmp_path))
    members = list(list_members(str(tmp_path)))
    first, second, third = sorted({member.container for member in members})[:3]
    data = bytearray(Path(first).read_bytes())
    column = pq.ParquetFile(first).metadata.row_group(0).column(7)
    assert column.path_in_schema == "image"
    data[column.data_page_offset + column.total_compressed_size - 3] ^= 1
    Path(first).write_bytes(data)
    Path(second).unlink()
    Path(third).write_bytes(b"PAR1" + bytes(2000) + b"PAR1")
    reasons: dict[str, set[str]] = {}
    for member, film in read_rows(members):
        reasons.setdefault(member.container, set()).add(film.reason if isinstance(film, Rejected) else "")
    assert "corrupt" in reasons.pop(first)
    assert reasons.pop(second) == {"missing"}
    assert reasons.pop(third) == {"corrupt"}
    assert set().union(*reasons.values()) == {""}
    listed = {member.image_id: member.problem for member in list_members(str(tmp_path)) if member.problem}
    assert listed == {
        second.removeprefix(f"{tmp_path}/"): "missing",
        third.removeprefix(f"{tmp_path}/"): "broken-archive",
    }


def test_rows_that_are_not_those_that_were_listed_are_told(tmp_path: Path) -> None:
    made(str(tmp_path))
    member = next(iter(list_members(str(tmp_path))))
    wrong = [replace(member, name="other"), replace(member, offset=10**6), replace(member, offset=-1)]
    assert [film.reason for _, film in read_rows(wrong) if isinstance(film, Rejected)] == ["changed"] * 3


def test_pixels_that_are_not_as_many_as_the_row_says_are_told(tmp_path: Path) -> None:
    made(str(tmp_path))
    path = tmp_path / list_files(str(tmp_path))[-1]
    table = pq.read_table(path, partitioning=None)
    short = [value.as_py()[:-1] for value in table["image"]]
    position = table.schema.get_field_index("image")
    pq.write_table(table.set_column(position, table.schema.field(position), [short]), path)
    wrong = [film for member, film in read_rows(list_members(str(tmp_path))) if member.container == str(path)]
    assert set(wrong) == {Rejected("corrupt", f"{SIZE * SIZE - 1} pixels where {SIZE} x {SIZE} were expected")}


def test_a_dataset_of_another_version_is_refused_and_one_of_other_people_is_a_folder(tmp_path: Path) -> None:
    made(str(tmp_path))
    document = json.loads(read_bytes(f"{tmp_path}/dataset.json"))
    write_bytes(f"{tmp_path}/dataset.json", json.dumps({**document, "schema_version": 99}).encode())
    with pytest.raises(DatasetError, match="version"):
        list_members(str(tmp_path))
    for other in (b'{"labels": {"background": 0}}', b"[]", b"no json"):
        write_bytes(f"{tmp_path}/dataset.json", other)
        assert {member.kind for member in list_members(str(tmp_path))} == {"file"}


def test_rows_are_not_read_as_bytes(tmp_path: Path) -> None:
    made(str(tmp_path))
    with pytest.raises(ValueError, match="read_rows"):
        list(read_members(list_members(str(tmp_path))))


@pytest.mark.usefixtures("s3_server")
def test_a_missing_bucket_is_an_error(tmp_path: Path) -> None:
    made(str(tmp_path))
    member = next(iter(list_members(str(tmp_path))))
    with pytest.raises(StorageError, match="bucket"):
        list(read_rows([replace(member, container="s3://covseg-no-such-bucket/part.parquet")]))

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from covseg_ray.errors import DatasetError, StorageError
from covseg_ray.storage.runs.teacher_maps import missing_maps, read_maps, write_maps

IDS = ["a/1.png", "b/2.png", "c/3.png"]


def maps_of(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (3, 2, 5, 7), dtype=np.uint8)


def test_maps_come_back_by_their_units_number(tmp_path: Path) -> None:
    folder = str(tmp_path / "teachers/0123")
    assert missing_maps(folder, 4) == [0, 1, 2, 3]
    for unit in (3, 1):
        write_maps(folder, unit, IDS, maps_of(unit))
    assert missing_maps(folder, 4) == [0, 2]
    for unit in (1, 3):
        assert np.array_equal(read_maps(folder, unit), maps_of(unit))
    with pytest.raises(StorageError, match=r"00002\.parquet: not found"):
        read_maps(folder, 2)


def test_a_file_holds_the_films_names_and_their_bytes_as_they_are(tmp_path: Path) -> None:
    write_maps(str(tmp_path), 0, IDS, maps_of(0))
    (file,) = tmp_path.iterdir()
    rows = pq.read_table(file).to_pylist()
    assert [row["image_id"] for row in rows] == IDS
    assert [row["maps"] for row in rows] == [each.tobytes() for each in maps_of(0)]
    assert {(row["height"], row["width"]) for row in rows} == {(5, 7)}
    assert maps_of(0)[1].tobytes() in file.read_bytes()  # neither compressed nor encoded


def test_damage_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    write_maps(str(tmp_path), 0, IDS, maps_of(0))
    (file,) = tmp_path.iterdir()
    data = bytearray(file.read_bytes())
    data[data.index(maps_of(0)[1].tobytes())] ^= 1
    for damaged in (bytes(data), bytes(data[:-100])):
        file.write_bytes(damaged)
        with pytest.raises(DatasetError, match=r"00000\.parquet: damaged .* delete it and run the same command again"):
            read_maps(str(tmp_path), 0)

from __future__ import annotations

import io
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from covseg_ray.errors import DatasetError
from covseg_ray.storage.archives.manifests import manifest_entries
from covseg_ray.storage.filesystem import join, locate, write_bytes


@pytest.fixture(params=["local", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "local":
        return str(tmp_path / "with blank")
    return join(request.getfixturevalue("bucket"), tmp_path.name, "with blank")


def parquet(**columns: pa.Array) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer, compression="none", use_dictionary=False)
    return buffer.getvalue()


def entries(folder: str, name: str, data: bytes) -> list[str]:
    write_bytes(join(folder, name), data)
    return manifest_entries(locate(join(folder, name)))


def test_a_csv_names_its_films_once_each_in_its_order(place: str) -> None:
    text = '\ufeffpatient,uri\n1,b é.png\n2,"a,1.png"\n3, b é.png \n4,s3://bucket/x\n'
    assert entries(place, "films.CSV", text.encode()) == ["b é.png", "a,1.png", "s3://bucket/x"]


def test_parquet_too_whatever_kind_of_text_it_holds(place: str) -> None:
    names = pa.array(["b.png", "a.png", "b.png"])
    for column in (names, names.dictionary_encode(), names.cast(pa.large_string())):
        assert entries(place, "films.parquet", parquet(image=column)) == ["b.png", "a.png"]


def test_uri_goes_before_image(tmp_path: Path) -> None:
    assert entries(str(tmp_path), "films.csv", b"image,uri\nleft.png,right.png\n") == ["right.png"]


@pytest.mark.parametrize(
    ("name", "data", "text"),
    [
        ("a.csv", b"", "no column uri or image"),
        ("a.csv", b"path\nx.png\n", "no column uri or image"),
        ("a.csv", b"uri\n", "no rows"),
        ("a.csv", b"image,uri\nx.png,\n", "row 2: the column uri is empty"),
        ("a.csv", b"id,uri\nx\n", "row 2: the column uri is empty"),
        ("a.csv", b"uri\n\xff\xfe\n", "not a CSV file in UTF-8"),
        ("a.csv", b'uri\n"open\n', "not a CSV file in UTF-8"),
        ("a.parquet", b"", "not a Parquet file with names in it"),
        ("a.parquet", b"PAR1" + bytes(100) + b"PAR1", "not a Parquet file with names in it"),
        ("a.parquet", parquet(image=pa.array([b"\x89PNG\xff"])), "not a Parquet file with names in it"),
        ("a.parquet", parquet(image=pa.array([["x.png"]])), "not a Parquet file with names in it"),
        ("a.parquet", parquet(path=pa.array(["x.png"])), "no column uri or image"),
        ("a.parquet", parquet(uri=pa.array(["x.png", None])), "row 2: the column uri is empty"),
        ("a.parquet", parquet(uri=pa.array(["x.png", "y\0.png"])), "row 2: the column uri is empty or holds a zero"),
    ],
)
def test_what_is_no_manifest_is_one_clear_line(tmp_path: Path, name: str, data: bytes, text: str) -> None:
    with pytest.raises(DatasetError, match=text) as caught:
        entries(str(tmp_path), name, data)
    assert "\n" not in str(caught.value)


def test_damaged_pages_are_told(tmp_path: Path) -> None:
    data = bytearray(parquet(uri=pa.array(["x" * 1000] * 1000)))
    data[4:60] = b"\xff" * 56
    with pytest.raises(DatasetError, match="not a Parquet file with names in it"):
        entries(str(tmp_path), "a.parquet", bytes(data))

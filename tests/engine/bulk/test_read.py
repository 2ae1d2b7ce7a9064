from __future__ import annotations

import hashlib
import io
import zipfile
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from dicom_films import encoded, film
from PIL import Image

from covseg_ray.engine.bulk.read import LOADED, PICTURE_SIDE, Options, load
from covseg_ray.radiograph.frontal_check import LEVEL, load_fitted
from covseg_ray.radiograph.phantom import make_phantom
from covseg_ray.storage.archives.read import list_members
from covseg_ray.storage.datasets.pack import synthesise
from covseg_ray.storage.runs.worklist import SCHEMA


def wanted(*write: str) -> Options:
    return Options("", 64, "stretch", (), "", "", write, datetime(2026, 1, 2, tzinfo=timezone.utc))


def listed(source: Path) -> pa.Table:
    rows = [{"item": i, **{f: getattr(m, f) for f in m.__slots__}} for i, m in enumerate(list_members(str(source)))]
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def png(pixels_HW: np.ndarray) -> bytes:
    with io.BytesIO() as file:
        Image.fromarray(pixels_HW).save(file, "PNG")
        return file.getvalue()


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two films and a broken one in a folder, one more in a zip."""
    folder = tmp_path_factory.mktemp("archive")
    for index, side in enumerate((64, 1500)):
        (folder / f"film-{index}.png").write_bytes(png(make_phantom(1, index, side).image))
    (folder / "film-2.png").write_bytes(png(make_phantom(1, 2, 64).image)[:500])
    with zipfile.ZipFile(folder / "more.zip", "w") as more:
        more.writestr("film.png", png(make_phantom(1, 3, 96).image))
    return folder


def test_each_input_becomes_one_row_in_its_place(archive: Path) -> None:
    rows = pa.concat_tables(load(listed(archive), wanted())).to_pylist()
    assert [row["item"] for row in rows] == [0, 1, 2, 3]
    assert [row["image_id"] for row in rows] == ["film-0.png", "film-1.png", "film-2.png", "more.zip/film.png"]
    assert [row["reason"] for row in rows] == [None, None, "truncated", None]
    assert [(row["height"], row["width"]) for row in rows] == [(64, 64), (1500, 1500), (None, None), (96, 96)]
    files = [(archive / f"film-{index}.png").read_bytes() for index in range(3)]
    files.append(zipfile.ZipFile(archive / "more.zip").read("film.png"))
    assert [row["input_sha256"] for row in rows] == [hashlib.sha256(data).hexdigest() for data in files]
    for row, data in zip(rows, files, strict=True):
        if row["reason"]:
            assert (row["square"], row["frontal"]) == (None, None)
            continue
        shown = Image.open(io.BytesIO(data)).resize((64, 64), Image.Resampling.BILINEAR)
        assert row["square"] == shown.tobytes()
        assert row["frontal"] == np.float32(load_fitted().p_value(np.asarray(shown)))
        assert row["picture"] is None
        assert row["dicom_header"] is None


def test_pictures_are_carried_only_where_they_are_wanted(archive: Path) -> None:
    rows = pa.concat_tables(load(listed(archive), wanted("overlays"))).to_pylist()
    assert [(row["picture_height"], row["picture_width"]) for row in rows] == [
        (64, 64),
        (PICTURE_SIDE, PICTURE_SIDE),
        (None, None),
        (96, 96),
    ]
    assert rows[0]["picture"] == make_phantom(1, 0, 64).image.tobytes()


def test_films_that_fail_the_frontal_check_are_rejected_where_it_may(tmp_path: Path) -> None:
    """A phantom passes; upside down, as a negative and as noise it does not, as a file and as DICOM."""
    film_HW = make_phantom(1, 3, 256).image
    noise_HW = np.random.default_rng(3).integers(0, 256, (90, 70), np.uint8)
    files = {
        "a.png": png(film_HW),
        "b.png": png(255 - film_HW),
        "c.png": png(noise_HW),
        "d.dcm": encoded(film(np.ascontiguousarray(film_HW[::-1]))),
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    rejecting = replace(wanted("overlays", "dicom-seg"), reject_unlike=True)
    rows = pa.concat_tables(load(listed(tmp_path), rejecting)).to_pylist()
    assert [row["reason"] for row in rows] == [None, "not-frontal", "not-frontal", "not-frontal"]
    masked = pa.concat_tables(load(listed(tmp_path), wanted("overlays", "dicom-seg"))).to_pylist()
    assert rows[0] == masked[0]
    for row, as_before in zip(rows[1:], masked[1:], strict=True):
        assert row["frontal"] < LEVEL
        assert row["detail"] == f"frontal {row['frontal']:.4f}, below 0.005: it does not look like a frontal chest film"
        assert {row[name] for name in ("square", "picture", "picture_height", "picture_width", "dicom_header")} == {
            None
        }
        for name in ("image_id", "input_sha256", "height", "width", "frontal", "sop_instance_uid"):
            assert row[name] == as_before[name]
        assert (as_before["reason"], as_before["square"] is None) == (None, False)


def test_rows_of_a_dataset_are_films_too(tmp_path: Path) -> None:
    synthesise(str(tmp_path / "dataset"), 20, seed=3, size=64)
    tables = list(load(listed(tmp_path / "dataset"), wanted()))
    assert [table.num_rows for table in tables] == [16, 4], "pieces, so that the model can begin"
    assert all(table.schema == LOADED for table in tables)
    rows = pa.concat_tables(tables).to_pylist()
    shown = {row["image_id"]: np.frombuffer(row["square"], np.uint8).reshape(64, 64) for row in rows}
    assert len(shown) == 20
    drawn = {make_phantom(3, index, 64).image.tobytes() for index in range(20)}
    assert {square_SS.tobytes() for square_SS in shown.values()} == drawn
    assert {row["input_sha256"] for row in rows} == {hashlib.sha256(data).hexdigest() for data in drawn}

from __future__ import annotations

import io
import json
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray
from PIL import Image

from covseg_ray.engine.bulk.postprocess import postprocess
from covseg_ray.engine.bulk.read import PREDICTED, Options
from covseg_ray.storage.runs.result_table import SCHEMA

LUNGS = ("background", "lung", "infection")
RNG = np.random.default_rng(5)
CLASSES_SS = RNG.integers(0, 3, (32, 32), dtype=np.uint8)


def how(out: Path, classes: tuple[str, ...] = LUNGS, write: tuple[str, ...] = ()) -> Options:
    created = datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone.utc)
    return Options(str(out), 32, "stretch", classes, "0123456789abcdef", "1", write, created)


def predicted(**changes: object) -> pa.Table:
    row = {
        "item": 7,
        "image_id": "folder/film.png",
        "source": "/archive/folder/film.png",
        "input_sha256": "ab",
        "height": 75,
        "width": 50,
        "frontal": 0.75,
        "square": CLASSES_SS.tobytes(),
        "expected_iou": 0.625,
    }
    return pa.Table.from_pylist([row | changes], schema=PREDICTED)


def by_hand(height: int, width: int) -> NDArray[np.uint8]:
    """Each pixel takes the class of the square's pixel that its centre lies in."""
    found_HW = np.empty((height, width), np.uint8)
    for row in range(height):
        for column in range(width):
            found_HW[row, column] = CLASSES_SS[int((row + 0.5) / height * 32), int((column + 0.5) / width * 32)]
    return found_HW


def test_the_mask_has_the_films_own_size(tmp_path: Path) -> None:
    table = postprocess(predicted(), how(tmp_path))
    assert table.schema == SCHEMA
    (row,) = table.to_pylist()
    classes_HW = by_hand(75, 50)
    mask = Image.open(io.BytesIO(row["mask"]))
    assert (mask.mode, mask.size) == ("1", (50, 75))
    np.testing.assert_array_equal(np.asarray(mask), classes_HW == 2)
    assert (row["status"], row["reason"], row["detail"]) == ("ok", None, None)
    assert row["infection_fraction"] == pytest.approx((classes_HW == 2).sum() / 3750, abs=1e-12)
    assert row["lung_fraction"] == pytest.approx((classes_HW > 0).sum() / 3750, abs=1e-12)
    share = (classes_HW == 2).sum() / (classes_HW > 0).sum()
    assert json.loads(row["severity"])["whole"] == pytest.approx(share, abs=1e-12)
    assert (row["item"], row["image_id"], row["model_id"]) == (7, "folder/film.png", "0123456789abcdef")
    assert (row["frontal"], row["expected_iou"]) == (0.75, 0.625)
    assert not list(tmp_path.iterdir()), "nothing was asked for beside the table"


def test_a_model_without_lungs_says_nothing_of_them(tmp_path: Path) -> None:
    (row,) = postprocess(predicted(), how(tmp_path, ("background", "x", "infection"))).to_pylist()
    assert (row["lung_fraction"], row["severity"]) == (None, None)
    assert row["infection_fraction"] > 0


def test_a_rejected_input_keeps_its_reason(tmp_path: Path) -> None:
    changes = {
        "square": None,
        "height": None,
        "width": None,
        "expected_iou": None,
        "reason": "corrupt",
        "detail": "why",
    }
    (row,) = postprocess(predicted(**changes), how(tmp_path, write=("masks", "overlays"))).to_pylist()
    assert (row["status"], row["reason"], row["detail"]) == ("rejected", "corrupt", "why")
    assert (row["mask"], row["infection_fraction"], row["height"], row["expected_iou"]) == (None, None, None, None)
    assert not list(tmp_path.iterdir())


def test_files_beside_the_table(tmp_path: Path) -> None:
    picture_HW = RNG.integers(0, 256, (75, 50), dtype=np.uint8)
    changes = {"picture": picture_HW.tobytes(), "picture_height": 75, "picture_width": 50}
    (row,) = postprocess(predicted(**changes), how(tmp_path, write=("masks", "overlays"))).to_pylist()
    assert (tmp_path / "masks/folder/film.png.png").read_bytes() == row["mask"]
    drawn_HW3 = np.asarray(Image.open(tmp_path / "overlays/folder/film.png.png"))
    outside_HW = by_hand(75, 50) != 2
    assert drawn_HW3.shape == (75, 50, 3)
    np.testing.assert_array_equal(drawn_HW3[outside_HW], np.repeat(picture_HW[outside_HW][:, None], 3, 1))
    assert (drawn_HW3[~outside_HW] != np.repeat(picture_HW[~outside_HW][:, None], 3, 1)).any(1).mean() > 0.9

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from dataclasses import asdict
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from pyarrow import csv as arrow_csv
from result_rows import result, write_results

from covseg_ray.errors import CovsegError, DatasetError, StorageError, UsageError
from covseg_ray.radiograph.contours import run_lengths
from covseg_ray.radiograph.masks import decode_png1, encode_png1
from covseg_ray.radiograph.severity import Severity, severity
from covseg_ray.storage.archives.image_ids import image_id
from covseg_ray.storage.filesystem import list_files, read_bytes, write_bytes
from covseg_ray.storage.runs.exports import ROWS_AT_ONCE, export_coco, export_csv, export_png
from covseg_ray.storage.runs.result_table import SCHEMA

HOSTILE = [
    "/".join(["é" * 100, *["x" * 200] * 2, "y" * 97]),  # of 700 bytes, the longest there is
    image_id("a," + "b" * 3000),
    "say \"ah\", then'go'",
    "=HYPERLINK(1)",
    "+1",
    "-1",
    "@here",
    "scans/a::b.dcm",
    "zip::memory:%2F%2Fc",
    "100% of #1?.dcm",
    "x;y*[z].png",
    "~/home",
    "胸部.png",
]
EXPORTS = {"results.csv": export_csv, "masks": export_png, "annotations.json": export_coco}


def mask_of(height: int, width: int, seed: int) -> NDArray[np.uint8]:
    return (np.random.default_rng(seed).random((height, width)) < 0.3).astype(np.uint8)


def segmented(item: int, name: str, mask_HW: NDArray[np.uint8], **changes: Any) -> dict[str, Any]:
    size = {"height": mask_HW.shape[0], "width": mask_HW.shape[1], "infection_fraction": float(mask_HW.mean())}
    return result(item, image_id=name, mask=encode_png1(mask_HW), **size, **changes)


def finished(out: str, *files: list[dict[str, Any]]) -> str:
    write_results(out, *files)
    write_bytes(f"{out}/summary.json", json.dumps({"inputs": sum(map(len, files))}).encode())
    return out


@pytest.fixture(params=["local", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A folder on disk or in a bucket."""
    return str(tmp_path) if request.param == "local" else f"{request.getfixturevalue('bucket')}/{tmp_path.name}"


@pytest.fixture
def masks() -> dict[str, NDArray[np.uint8]]:
    """A mask by image id: no infection, nothing else, one pixel in each corner, and others at random."""
    shapes = [np.zeros((5, 7), np.uint8), np.ones((4, 3), np.uint8), np.ones((1, 1), np.uint8)]
    for corner in [(0, 0), (0, -1), (-1, 0), (-1, -1)]:
        shapes.append(np.zeros((6, 9), np.uint8))
        shapes[-1][corner] = 1
    shapes += [mask_of(31 + seed, 50 - seed, seed) for seed in range(len(HOSTILE) - len(shapes))]
    return dict(zip(HOSTILE, shapes, strict=True))


@pytest.fixture
def out(place: str, masks: dict[str, NDArray[np.uint8]]) -> str:
    """A finished run of the hostile ids, among them rejects, in two files."""
    rows = [segmented(2 * index, name, mask_HW) for index, (name, mask_HW) in enumerate(masks.items())]
    rows += [result(2 * index + 1, "truncated", detail="cut") for index in range(len(rows))]
    return finished(f"{place}/out", rows[::-2], rows[::2])


def read_csv(target: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(read_bytes(f"{target}/results.csv").decode(), newline="")))


def test_csv_has_every_row_and_column(out: str, place: str, masks: dict[str, NDArray[np.uint8]]) -> None:
    assert export_csv(out, f"{place}/export") == 2 * len(masks)
    rows = read_csv(f"{place}/export")
    assert list(rows[0])[: len(SCHEMA) - 1] == [name for name in SCHEMA.names if name != "mask"]
    assert sorted(int(row["item"]) for row in rows) == list(range(2 * len(masks)))
    for index, (name, mask_HW) in enumerate(masks.items()):
        row = next(row for row in rows if row["item"] == str(2 * index))
        assert row["image_id"] == (f"'{name}" if name[0] in "=+-@" else name)
        assert (int(row["height"]), int(row["width"])) == mask_HW.shape
        assert float(row["infection_fraction"]) == mask_HW.sum() / mask_HW.size
        assert (row["status"], row["reason"], row["detail"], row["severity_whole"]) == ("ok", "", "", "")
    rejected = [row for row in rows if row["status"] == "rejected"]
    assert {(row["reason"], row["detail"], row["height"], row["lung_fraction"]) for row in rejected} == {
        ("truncated", "cut", "", "")
    }


def test_csv_rows_are_ordered_by_item_within_a_file(tmp_path: Path) -> None:
    items = list(np.random.default_rng(0).permutation(3 * ROWS_AT_ONCE))
    files = [items[:700], items[700:]]
    out = finished(str(tmp_path), *([result(int(item), "empty") for item in file] for file in files))
    assert export_csv(out, str(tmp_path)) == len(items)
    assert [int(row["item"]) for row in read_csv(out)] == [item for file in files for item in sorted(file)]


@pytest.mark.parametrize(
    ("text", "cell"),
    [
        ("=1+1", "'=1+1"),
        ("+1", "'+1"),
        ("-1", "'-1"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("\t=1", "'\t=1"),
        ("\r=1", "'\r=1"),
        ("a=1", "a=1"),
        ("'=1", "'=1"),
        ('two\nlines, and "more"\r\nof them', 'two\nlines, and "more"\r\nof them'),
        ('"', '"'),
        (",", ","),
        ("", ""),
    ],
)
def test_csv_text_is_no_formula_and_stays_in_its_cell(tmp_path: Path, text: str, cell: str) -> None:
    out = finished(str(tmp_path), [result(0, "corrupt", detail=text, source=text), result(1, "empty", detail="next")])
    export_csv(out, out)
    first, second = read_csv(out)
    assert (first["detail"], first["source"], first["item"]) == (cell, cell, "0")
    assert (second["detail"], second["item"]) == ("next", "1")
    options = arrow_csv.ParseOptions(newlines_in_values=True)
    read = arrow_csv.read_csv(tmp_path / "results.csv", parse_options=options)
    assert [str(value or "") for value in read["detail"].to_pylist()] == [cell, "next"]


def test_csv_flattens_the_severity(tmp_path: Path) -> None:
    lung, infection = np.zeros((60, 60), np.uint8), mask_of(60, 60, 1)
    lung[5:50, 5:25] = lung[5:50, 35:55] = 1
    found, nowhere = severity(infection, lung), severity(infection, np.zeros_like(lung))
    rows = [segmented(i, f"{i}", infection, severity=json.dumps(asdict(s))) for i, s in enumerate([found, nowhere])]
    out = finished(str(tmp_path), [*rows, segmented(2, "2", infection)])
    export_csv(out, out)
    first, second, third = read_csv(out)
    names = ["whole", "left", "right"]
    names += [f"{side}_{zone}" for side in ("left", "right") for zone in ("upper", "middle", "lower")]
    assert [name for name in first if name.startswith("severity_")] == [
        f"severity_{name}" for name in [*names, "plausible"]
    ]
    values = [found.whole, found.left, found.right, *found.zones.values()]
    assert [float(first[f"severity_{name}"]) for name in names] == values
    assert [second[f"severity_{name}"] for name in names] == [""] * len(names)
    assert [row["severity_plausible"] for row in (first, second, third)] == ["true", "false", ""]
    assert Severity(**json.loads(first["severity"])) == found
    assert found.zones["left-upper"] == infection[5:20, 5:25].mean()


def test_png_are_the_masks_as_they_are(out: str, place: str, masks: dict[str, NDArray[np.uint8]]) -> None:
    assert export_png(out, f"{place}/export") == len(masks)
    # Listed by its own parent: a name with :: would lie elsewhere if it were taken for a URI.
    written = [name.removeprefix("export/") for name in list_files(place) if not name.startswith("out/")]
    assert sorted(written) == sorted(f"masks/{name}.png" for name in masks)


def test_png_hold_the_bytes_of_the_results(tmp_path: Path, masks: dict[str, NDArray[np.uint8]]) -> None:
    rows = [segmented(item, name, mask_HW) for item, (name, mask_HW) in enumerate(masks.items())]
    out = finished(str(tmp_path / "out"), rows[:4], rows[4:])
    export_png(out, str(tmp_path))
    for row, mask_HW in zip(rows, masks.values(), strict=True):
        data = (tmp_path / "masks" / f"{row['image_id']}.png").read_bytes()
        assert data == row["mask"]
        np.testing.assert_array_equal(decode_png1(data), mask_HW)


@pytest.mark.parametrize(
    "name", ["../evil", "a/../../evil", "/evil", "a//evil", "./evil", "..", "a\\..\\evil", "", "a\0"]
)
def test_png_never_leave_the_target(tmp_path: Path, name: str) -> None:
    out = finished(str(tmp_path / "out"), [segmented(0, name, mask_of(3, 3, 0))])
    with pytest.raises(DatasetError, match="is no safe path"):
        export_png(out, str(tmp_path / "deep/export"))
    assert [path for path in tmp_path.rglob("*") if "evil" in path.name or path.suffix == ".png"] == []


def coco_of(target: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(read_bytes(f"{target}/annotations.json"))
    return document


def decoded(segmentation: dict[str, Any]) -> NDArray[np.uint8]:
    """Run after run, pixel after pixel, down the columns."""
    height, width = segmentation["size"]
    mask_HW = np.zeros((height, width), np.uint8)
    position = 0
    for number, length in enumerate(segmentation["counts"]):
        for _ in range(length):
            mask_HW[position % height, position // height] = number % 2
            position += 1
    assert position == height * width
    return mask_HW


def test_coco_has_every_film_and_every_infection(out: str, place: str, masks: dict[str, NDArray[np.uint8]]) -> None:
    assert export_coco(out, f"{place}/export") == len(masks) - 1
    document = coco_of(f"{place}/export")
    assert document["categories"] == [{"id": 1, "name": "infection"}]
    films = {image["id"]: image for image in document["images"]}
    assert films == {
        2 * index: {"id": 2 * index, "file_name": name, "height": mask_HW.shape[0], "width": mask_HW.shape[1]}
        for index, (name, mask_HW) in enumerate(masks.items())
    }
    ids = [annotation["id"] for annotation in document["annotations"]]
    assert len(set(ids)) == len(ids) == len(masks) - 1
    assert min(ids) > 0
    for annotation in document["annotations"]:
        mask_HW = masks[films[annotation["image_id"]]["file_name"]]
        np.testing.assert_array_equal(decoded(annotation["segmentation"]), mask_HW)
        assert (annotation["category_id"], annotation["iscrowd"]) == (1, 1)
        assert annotation["area"] == mask_HW.sum() > 0
        rows, columns = np.nonzero(mask_HW)
        left, top = columns.min(), rows.min()
        assert annotation["bbox"] == [left, top, columns.max() - left + 1, rows.max() - top + 1]


def test_coco_is_what_the_coco_api_reads(tmp_path: Path, masks: dict[str, NDArray[np.uint8]]) -> None:
    api = pytest.importorskip("pycocotools.coco")
    rle = pytest.importorskip("pycocotools.mask")
    rows = [segmented(item, name, mask_HW) for item, (name, mask_HW) in enumerate(masks.items())]
    export_coco(finished(str(tmp_path), rows), str(tmp_path))
    read = api.COCO(str(tmp_path / "annotations.json"))
    assert len(read.getImgIds()) == len(masks)
    for image in read.loadImgs(read.getImgIds()):
        mask_HW = masks[image["file_name"]]
        found = read.loadAnns(read.getAnnIds(imgIds=[image["id"]]))
        assert len(found) == int(mask_HW.any())
        for annotation in found:
            np.testing.assert_array_equal(read.annToMask(annotation), mask_HW)
            packed = rle.encode(np.asfortranarray(mask_HW))
            assert read.annToRLE(annotation)["counts"] == packed["counts"]
            assert annotation["area"] == rle.area(packed)
            assert annotation["bbox"] == rle.toBbox(packed).tolist()


@given(arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.integers(0, 1)))
def test_run_lengths_are_those_of_the_pixels_down_the_columns(mask_HW: NDArray[np.uint8]) -> None:
    pixels = [int(mask_HW[row, column]) for column in range(mask_HW.shape[1]) for row in range(mask_HW.shape[0])]
    expected = [len(list(run)) for _, run in groupby(pixels)]
    assert run_lengths(mask_HW).tolist() == ([0, *expected] if pixels[0] else expected)


@pytest.mark.parametrize(
    ("changes", "text"),
    [({"mask": b"\x89PNG\r\n\x1a\n"}, "film-7: the mask cannot be read"), ({"height": 8}, "film-7: a mask of")],
)
def test_coco_appears_whole_or_not_at_all(place: str, changes: dict[str, Any], text: str) -> None:
    rows = [segmented(item, f"film-{item}", mask_of(9, 9, item)) for item in range(8)]
    out = finished(f"{place}/out", [*rows[:7], rows[7] | changes])
    with pytest.raises(DatasetError, match=text) as caught:
        export_coco(out, f"{place}/export")
    assert "\n" not in str(caught.value)
    assert list_files(f"{place}/export") == []


@pytest.mark.parametrize("rows", ["rejects", "films", "nothing"])
def test_a_run_of_one_kind_of_row(tmp_path: Path, rows: str) -> None:
    made = {
        "rejects": [result(item, "empty") for item in range(3)],
        "films": [segmented(item, f"film-{item}", np.ones((2, 2), np.uint8)) for item in range(3)],
        "nothing": [],
    }[rows]
    out = finished(str(tmp_path / "out"), made)
    films = len(made) if rows == "films" else 0
    target = str(tmp_path / "export")
    assert (export_csv(out, target), export_png(out, target), export_coco(out, target)) == (len(made), films, films)
    assert len(read_csv(target)) == len(made)
    document = coco_of(target)
    assert (len(document["images"]), len(document["annotations"])) == (films, films)


@pytest.mark.parametrize("name", list(EXPORTS))
def test_an_export_is_never_written_over(out: str, place: str, name: str) -> None:
    EXPORTS[name](out, f"{place}/export")
    before = {file: read_bytes(f"{place}/export/{file}") for file in list_files(f"{place}/export") if "::" not in file}
    with pytest.raises(UsageError, match=f"{name}: an export is there already; choose another folder, or delete it"):
        EXPORTS[name](out, f"{place}/export")
    after = {file: read_bytes(f"{place}/export/{file}") for file in list_files(f"{place}/export") if "::" not in file}
    assert before == after
    others = [export for other, export in EXPORTS.items() if other != name]
    assert all(export(out, f"{place}/export") for export in others)


@pytest.mark.parametrize("export", EXPORTS.values(), ids=EXPORTS)
def test_half_a_run_is_not_exported(tmp_path: Path, export: Callable[[str, str], int]) -> None:
    rows = [segmented(item, f"film-{item}", mask_of(3, 3, item)) for item in range(3)]
    out = write_results(str(tmp_path / "out"), rows)
    with pytest.raises(StorageError, match="no finished run there"):
        export(out, str(tmp_path / "export"))
    write_bytes(f"{out}/summary.json", b'{"inputs": 4}')
    with pytest.raises(CovsegError, match="of 4 inputs 1 are missing"):
        export(out, str(tmp_path / "export"))
    assert not (tmp_path / "export").exists()


@pytest.mark.parametrize("export", EXPORTS.values(), ids=EXPORTS)
def test_a_target_that_cannot_be_written_is_one_line(tmp_path: Path, export: Callable[[str, str], int]) -> None:
    out = finished(str(tmp_path / "out"), [segmented(0, "film", mask_of(3, 3, 0))])
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match="file") as caught:
        export(out, str(tmp_path / "file"))
    assert "\n" not in str(caught.value)


def test_a_missing_bucket_is_told_of(tmp_path: Path, s3_server: None) -> None:
    out = finished(str(tmp_path / "out"), [segmented(0, "film", mask_of(3, 3, 0))])
    for export in EXPORTS.values():
        with pytest.raises(StorageError, match="no such bucket"):
            export(out, "s3://covseg-test-of-nobody/export")

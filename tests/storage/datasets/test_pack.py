from __future__ import annotations

import io
import struct
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from covseg_ray.errors import DatasetError
from covseg_ray.radiograph.geometry import standardise, standardise_mask
from covseg_ray.radiograph.phantom import make_phantom
from covseg_ray.storage.datasets.pack import map_in_threads, pack, read_exclusions, synthesise
from covseg_ray.storage.datasets.read import Films, list_units, read_unit


def png(pixels: NDArray[np.generic]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def huge_png() -> bytes:
    """13,000 x 13,000 pixels in the header; no need to hold them."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 13_000, 13_000, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


FILM = np.random.default_rng(0).integers(0, 256, (48, 64), np.uint8)
MASK = np.zeros((48, 64), np.uint8)
MASK[10:20, 30:50] = 1


def folder(root: Path, films: dict[str, tuple[bytes, bytes | None]]) -> str:
    for kind in ("images", "masks"):
        (root / kind).mkdir(parents=True, exist_ok=True)
    for name, (image, mask) in films.items():
        (root / "images" / f"{name}.png").write_bytes(image)
        if mask is not None:
            (root / "masks" / f"{name}.png").write_bytes(mask)
    return str(root)


def read_all(uri: str, splits: list[str]) -> dict[str, tuple[NDArray[np.uint8], NDArray[np.uint8]]]:
    films: list[Films] = [read_unit(uri, unit) for split in splits for unit in list_units(uri, split)]
    return {
        image_id: (each.images_NHW[index], each.masks_NHW[index])
        for each in films
        for index, image_id in enumerate(each.image_ids)
    }


def test_every_bad_film_is_named_and_the_others_are_packed(tmp_path: Path) -> None:
    good = (png(FILM), png(MASK * 255))
    grey_mask = np.where(MASK == 1, FILM, 0)
    source = folder(
        tmp_path / "source",
        {
            "good": good,
            "black": (png(FILM * 0), png(MASK)),
            "mask-is-rgb": (good[0], png(np.repeat(MASK[:, :, None] * np.uint8(255), 3, axis=2))),
            "lonely": (good[0], None),
            "cut": (good[0][: len(good[0]) // 2], good[1]),
            "page": (b"<html>404</html>", good[1]),
            "huge": (huge_png(), good[1]),
            "small-mask": (good[0], png(MASK[:40])),
            "grey-mask": (good[0], png(grey_mask)),
            "cut-mask": (good[0], good[1][:40]),
        },
    )
    info = pack(source, str(tmp_path / "out"), size=32)
    assert {reject.image: reject.reason for reject in info.rejected} == {
        "images/lonely.png": "no-mask",
        "images/cut.png": "truncated",
        "images/page.png": "not-an-image",
        "images/huge.png": "too-large",
        "images/small-mask.png": "mask-size",
        "images/grey-mask.png": "mask-not-binary",
        "images/cut-mask.png": "mask-truncated",
    }
    details = {reject.reason: reject.detail for reject in info.rejected}
    assert "40 x 64, the image 48 x 64" in details["mask-size"]
    assert f"{len(np.unique(grey_mask))} different values" in details["mask-not-binary"]
    packed = read_all(str(tmp_path / "out"), list(info.splits))
    assert set(packed) == {"good", "black", "mask-is-rgb"}
    for image_id, (image_HW, mask_HW) in packed.items():
        np.testing.assert_array_equal(mask_HW, standardise_mask(MASK, 32, "stretch"))
        np.testing.assert_array_equal(image_HW, standardise(FILM * (image_id != "black"), 32, "stretch")[0])


def test_letterbox_lays_film_and_mask_alike(tmp_path: Path) -> None:
    source = folder(tmp_path / "source", {"a": (png(np.full((48, 64), 200, np.uint8)), png(MASK * 0 + 1))})
    info = pack(source, str(tmp_path / "out"), size=64, resize="letterbox")
    ((image_HW, mask_HW),) = read_all(str(tmp_path / "out"), list(info.splits)).values()
    assert (info.size, info.resize) == (64, "letterbox")
    np.testing.assert_array_equal(image_HW == 200, mask_HW == 1)
    assert mask_HW.sum() == 48 * 64


def test_the_place_of_the_source_does_not_change_the_digest(tmp_path: Path, bucket: str) -> None:
    films = {f"film {number}": (png(np.roll(FILM, number)), png(MASK)) for number in range(12)}
    here, there = folder(tmp_path / "here", films), folder(tmp_path / "there", films)
    digests = {
        pack(here, str(tmp_path / "a"), size=32).digest,
        pack(there, f"{bucket}/{tmp_path.name}", size=32).digest,
    }
    assert len(digests) == 1


def test_a_manifest_with_a_missing_file_packs_the_rest(tmp_path: Path) -> None:
    folder(tmp_path, {"a": (png(FILM), png(MASK))})
    rows = [
        "image,mask",
        "images/a.png,masks/a.png",
        "images/b.png,masks/a.png",
        f"{tmp_path}/images/a.png,masks/c.png",
    ]
    (tmp_path / "films.csv").write_text("\n".join(rows))
    info = pack(str(tmp_path / "films.csv"), str(tmp_path / "out"), size=32)
    assert info.rows == 1
    assert sorted(reject.reason for reject in info.rejected) == ["mask-missing", "missing"]


def test_excluded_films_stay_out(tmp_path: Path) -> None:
    films = {name: (png(FILM), png(MASK)) for name in ("a", "b # 2", "c")}
    source = folder(tmp_path / "source", films)
    (tmp_path / "list").write_text("# a comment\n\na  # why\nc\n")
    exclude = read_exclusions(str(tmp_path / "list"))
    assert exclude == {"a", "c"}
    info = pack(source, str(tmp_path / "out"), size=32, exclude=exclude)
    assert set(read_all(str(tmp_path / "out"), list(info.splits))) == {"b # 2"}
    with pytest.raises(DatasetError, match="none of the 1 excluded image ids"):
        pack(source, str(tmp_path / "other"), exclude=frozenset({"nobody"}))


def test_phantoms_are_packed_by_seed(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    info = synthesise(str(tmp_path / "a"), 10, seed=3, size=64, progress=lambda done, total: seen.append((done, total)))
    assert Counter({split: sum(labels.values()) for split, labels in info.splits.items()}) == {"train": 8, "val": 2}
    assert seen == [(done, 10) for done in range(1, 11)]
    packed = read_all(str(tmp_path / "a"), ["train", "val"])
    for index in range(10):
        phantom = make_phantom(3, index, 64)
        np.testing.assert_array_equal(packed[f"phantom-3-{index:06d}"][0], phantom.image)
        np.testing.assert_array_equal(packed[f"phantom-3-{index:06d}"][1], phantom.infection)
    assert synthesise(str(tmp_path / "b"), 10, seed=3, size=64).digest == info.digest
    assert synthesise(str(tmp_path / "c"), 10, seed=4, size=64).digest != info.digest


def test_mapping_keeps_order_and_reads_little_ahead() -> None:
    taken: list[int] = []

    def numbers() -> Iterator[int]:
        for number in range(1000):
            taken.append(number)
            yield number

    results = map_in_threads(lambda number: number * 2, numbers())
    assert [next(results) for _ in range(10)] == list(range(0, 20, 2))
    assert len(taken) < 100

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from PIL import Image

from covseg_ray.errors import DatasetError, UsageError
from covseg_ray.radiograph.phantom import Phantom, make_phantom
from covseg_ray.storage.datasets.audit import audit
from covseg_ray.storage.datasets.pack import pack
from covseg_ray.storage.datasets.read import list_units, read_info, read_unit
from covseg_ray.storage.datasets.sources import name_sources

SIZE = 64
PHANTOMS = [make_phantom(11, index, SIZE) for index in range(12)]
# The digests of one source as they were before a dataset could have several.
MANIFEST_DIGEST = "c5a398010ba266a99dc4e671c9998f2ca81df6604c3213608c5f87d8eaa2e57b"
PUBLISHED_DIGEST = "427646b058237ee98028e79f64340b34462a4877b898f0b1e853529ab47649f7"


def save(path: Path, pixels: NDArray[np.uint8]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def manifest(folder: Path, phantoms: list[Phantom], *, lung: bool, patients: list[str], level: int = 255) -> str:
    """Films of a csv manifest, all in train; masks of 0 and ``level``."""
    lines = [f"image,mask,{'lung,' * lung}label,split,patient_id"]
    for index, (phantom, patient) in enumerate(zip(phantoms, patients, strict=True)):
        save(folder / f"images/{index}.png", phantom.image)
        save(folder / f"masks/{index}.png", phantom.infection * np.uint8(level))
        save(folder / f"lungs/{index}.png", phantom.lung * np.uint8(level))
        lungs = f"lungs/{index}.png," * lung
        lines.append(f"images/{index}.png,masks/{index}.png,{lungs}{phantom.label},train,{patient}")
    (folder / "films.csv").write_text("\n".join(lines))
    return str(folder / "films.csv")


def published(root: Path, phantoms: list[Phantom]) -> str:
    """Films as COVID-QU-Ex publishes them, every other one in Val."""
    for index, phantom in enumerate(phantoms):
        folder = root / "Infection Segmentation Data" / ("Train", "Val")[index % 2] / phantom.label
        save(folder / f"images/{index}.png", phantom.image)
        save(folder / f"infection masks/{index}.png", phantom.infection * np.uint8(255))
        save(folder / f"lung masks/{index}.png", phantom.lung * np.uint8(255))
    return str(root)


@pytest.fixture
def sources(tmp_path: Path) -> list[str]:
    """COVID-QU-Ex, a manifest without lungs, and one with masks of 0 and 1 whose file names are those of the other."""
    return [
        published(tmp_path / "COVID-QU-Ex", PHANTOMS[:4]),
        manifest(tmp_path / "north (2)", PHANTOMS[4:8], lung=False, patients=["a", "a", "b", ""]),
        manifest(tmp_path / "south", PHANTOMS[8:], lung=True, patients=["c", "d", "e", ""], level=1),
    ]


def films_of(uri: str) -> dict[str, dict[str, object]]:
    tables = [pq.read_table(Path(uri) / shard.path) for shard in read_info(uri).shards]
    return {row["image_id"]: row for table in tables for row in table.to_pylist()}


def test_films_of_several_layouts_are_one_dataset(sources: list[str], tmp_path: Path) -> None:
    info = pack(sources, str(tmp_path / "out"), size=SIZE)
    rows = films_of(str(tmp_path / "out"))
    labels = [phantom.label for phantom in PHANTOMS]
    expected = {
        **{
            f"COVID-QU-Ex/{split.lower()}/{label}/{index}": f"COVID-QU-Ex/{split}/{label}/images/{index}.png"
            for index, (split, label) in enumerate(zip(["Train", "Val"] * 2, labels[:4], strict=True))
        },
        **{f"north-2/images/{index}": f"north-2/images/{index}.png" for index in range(4)},
        **{f"south/images/{index}": f"south/images/{index}.png" for index in range(4)},
    }
    assert {image_id: row["source"] for image_id, row in rows.items()} == expected
    assert {image_id: row["patient_id"] for image_id, row in rows.items() if row["patient_id"]} == {
        "north-2/images/0": "a",
        "north-2/images/1": "a",
        "north-2/images/2": "b",
        "south/images/0": "c",
        "south/images/1": "d",
        "south/images/2": "e",
    }
    assert {image_id for image_id, row in rows.items() if row["lung"] is None} == {
        f"north-2/images/{index}" for index in range(4)
    }
    assert info.layout == "covid-qu-ex, csv"
    counts = {
        "COVID-QU-Ex": {"train": Counter(labels[0:4:2]), "val": Counter(labels[1:4:2])},
        "north-2": {"train": Counter(labels[4:8])},
        "south": {"train": Counter(labels[8:])},
    }
    assert info.sources == counts == read_info(str(tmp_path / "out")).sources
    assert info.splits == {"train": Counter(labels[0:4:2] + labels[4:]), "val": Counter(labels[1:4:2])}


def test_each_film_keeps_its_pixels_and_masks(sources: list[str], tmp_path: Path) -> None:
    pack(sources, str(tmp_path / "out"), size=SIZE)
    own = {f"north-2/images/{index}": PHANTOMS[4 + index] for index in range(4)}
    own |= {f"south/images/{index}": PHANTOMS[8 + index] for index in range(4)}
    seen = set()
    for unit in list_units(str(tmp_path / "out"), "train"):
        films = read_unit(str(tmp_path / "out"), unit, with_lung=True, lung_needed=False)
        assert films.lungs_NHW is not None
        for index, image_id in enumerate(films.image_ids):
            if image_id in own:
                seen.add(image_id)
                lung_HW = own[image_id].lung if image_id.startswith("south") else np.zeros((SIZE, SIZE))
                np.testing.assert_array_equal(films.images_NHW[index], own[image_id].image)
                np.testing.assert_array_equal(films.masks_NHW[index], own[image_id].infection)
                np.testing.assert_array_equal(films.lungs_NHW[index], lung_HW)
    assert seen == set(own)


def test_the_order_of_the_sources_does_not_matter(sources: list[str], tmp_path: Path) -> None:
    one = pack(sources, str(tmp_path / "one"), size=SIZE)
    other = pack(sources[::-1], str(tmp_path / "other"), size=SIZE)
    assert one == other
    assert (tmp_path / "one/dataset.json").read_bytes() == (tmp_path / "other/dataset.json").read_bytes()


def test_a_single_source_keeps_its_ids_and_its_digest(sources: list[str], tmp_path: Path) -> None:
    info = pack(sources[2], str(tmp_path / "one"), size=SIZE)
    assert info.sources == {}
    rows = films_of(str(tmp_path / "one"))
    assert {image_id: row["source"] for image_id, row in rows.items()} == {
        f"images/{index}": f"images/{index}.png" for index in range(4)
    }
    assert pack(sources[2:], str(tmp_path / "list"), size=SIZE).digest == info.digest == MANIFEST_DIGEST
    assert pack(sources[0], str(tmp_path / "published"), size=SIZE).digest == PUBLISHED_DIGEST


def test_names_can_be_given(sources: list[str], tmp_path: Path) -> None:
    info = pack(sources[1:], str(tmp_path / "out"), size=SIZE, names=["n", "s.1"])
    assert list(info.sources) == ["n", "s.1"]
    assert {image_id.split("/")[0] for image_id in films_of(str(tmp_path / "out"))} == {"n", "s.1"}
    one = pack(sources[2], str(tmp_path / "one"), size=SIZE, names=["s"])
    assert list(one.sources) == ["s"]
    assert set(films_of(str(tmp_path / "one"))) == {f"s/images/{index}" for index in range(4)}


def test_folders_give_names(tmp_path: Path) -> None:
    named = {
        "COVID-QU-Ex": str(tmp_path / "COVID-QU-Ex/Infection Segmentation Data"),
        "north-2": str(tmp_path / "north (2)/films.CSV"),
        "films": "s3://bucket/made 1/films/",
        "bucket": "s3://bucket",
    }
    assert [source.name for source in name_sources(list(named.values()))] == list(named)
    assert [source.name for source in name_sources(["films"])] == [""]


@pytest.mark.parametrize(
    ("uris", "names", "problem"),
    [
        (["x/films", "y/films"], [], "several sources are named films; .* with --name"),
        (["x", "y"], ["a", "a"], "several sources are named a;"),
        (["x", "y"], ["a"], "1 names for 2 sources"),
        (["x"], ["a", "b"], "2 names for 1 sources"),
        (["x", "y"], ["a", "b/c"], "--name b/c: use letters"),
        (["x", "y"], ["a", ""], "--name : use letters"),
    ],
)
def test_names_that_tell_no_films_apart(uris: list[str], names: list[str], problem: str) -> None:
    with pytest.raises(UsageError, match=problem):
        name_sources(uris, names)


def test_a_folder_without_a_name_wants_one() -> None:
    with pytest.raises(DatasetError, match=r"/\.\.\.: its folder has no name .* give one with --name"):
        name_sources(["/...", "films"])


def test_rejects_and_exclusions_name_the_source(sources: list[str], tmp_path: Path) -> None:
    (tmp_path / "south/images/1.png").write_bytes(b"<html>")
    exclude = frozenset({"north-2/images/0", "images/1"})
    info = pack(sources, str(tmp_path / "out"), size=SIZE, exclude=exclude)
    assert [(each.image, each.reason) for each in info.rejected] == [("south/images/1.png", "not-an-image")]
    assert len(films_of(str(tmp_path / "out"))) == info.rows == 10
    assert "north-2/images/0" not in films_of(str(tmp_path / "out"))
    with pytest.raises(DatasetError, match=r"none of the 1 excluded image ids is in .*COVID-QU-Ex, .*north"):
        pack(sources, str(tmp_path / "other"), size=SIZE, exclude=frozenset({"images/1"}))


def test_copies_and_patients_are_found_across_sources(tmp_path: Path) -> None:
    """A Val film of one source is a copy of a film of another, and patient c has films in both manifests."""
    places = [
        published(tmp_path / "COVID-QU-Ex", PHANTOMS[:4]),
        manifest(tmp_path / "north", [*PHANTOMS[4:6], PHANTOMS[1]], lung=False, patients=["a", "c", ""]),
        manifest(tmp_path / "south", PHANTOMS[8:10], lung=True, patients=["c", "d"]),
    ]
    text = Path(places[2]).read_text().replace("train,c", "val,c")
    Path(places[2]).write_text(text)
    (tmp_path / "south/images/1.png").write_bytes(b"<html>")
    val = f"COVID-QU-Ex/val/{PHANTOMS[1].label}/1"
    found = audit(places)
    assert (found.films, found.without_patient) == (8, 5)
    assert [(each.kind, each.image_id, each.detail) for each in found.findings] == [
        ("exact-duplicate", "north/images/2", f"of {val}"),
        ("shared-patient", "north/images/1", "the same patient as south/images/0"),
    ]
    assert [each.image for each in found.rejected] == ["south/images/1.png"]
    exclude = frozenset(each.image_id for each in found.findings)
    assert pack(places, str(tmp_path / "all"), size=SIZE).rows == 8
    pack(places, str(tmp_path / "clean"), size=SIZE, exclude=exclude)
    packed = audit(str(tmp_path / "all"))
    assert (packed.findings, packed.rejected) == (found.findings, found.rejected)
    assert audit(str(tmp_path / "clean")).findings == ()


def test_packed_datasets_are_audited_together_by_name(sources: list[str], tmp_path: Path) -> None:
    pack(sources[2], str(tmp_path / "out"))
    found = audit([str(tmp_path / "out"), sources[2]], names=["packed", "files"])
    assert {(each.kind, each.image_id, each.detail) for each in found.findings} == {
        ("exact-duplicate", f"packed/images/{index}", f"of files/images/{index}") for index in range(4)
    }


def test_a_dataset_json_without_sources_is_read(sources: list[str], tmp_path: Path) -> None:
    info = pack(sources[2], str(tmp_path / "out"), size=SIZE)
    file = tmp_path / "out/dataset.json"
    document = json.loads(file.read_text())
    del document["sources"]
    file.write_text(json.dumps(document))
    assert read_info(str(tmp_path / "out")) == info

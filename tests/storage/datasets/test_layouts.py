from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from covseg_ray.errors import DatasetError, StorageError, UsageError
from covseg_ray.storage.datasets.layouts import Sample, hashed_split, read_layout
from covseg_ray.storage.filesystem import write_files


def touch(root: Path, *names: str) -> str:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")
    return str(root)


COVID_QU_EX = [
    f"Infection Segmentation Data/{split}/{label}/{kind}/{name}.png"
    for split, label, name in [
        ("Train", "COVID-19", "covid_1"),
        ("Val", "Normal", "Normal (2)"),
        ("Test", "Non-COVID", "x.y"),
    ]
    for kind in ("images", "infection masks", "lung masks")
]


@pytest.mark.parametrize("level", ["", "Infection Segmentation Data"])
def test_covid_qu_ex_is_recognised_at_either_level(tmp_path: Path, level: str) -> None:
    touch(tmp_path, *COVID_QU_EX, "COVID-QU-Ex dataset.txt")
    found = read_layout(str(tmp_path / level))
    assert found.name == "covid-qu-ex"
    assert [
        (each.image_id, each.split, each.label) for each in sorted(found.samples, key=lambda each: each.image_id)
    ] == [
        ("test/Non-COVID/x.y", "test", "Non-COVID"),
        ("train/COVID-19/covid_1", "train", "COVID-19"),
        ("val/Normal/Normal (2)", "val", "Normal"),
    ]
    assert "Train/COVID-19/images/covid_1.png" in [sample.image for sample in found.samples]
    for sample in found.samples:
        for path in (sample.image, sample.mask, sample.lung):
            assert path is not None
            assert (Path(found.root) / path).is_file()


def test_the_lung_part_of_covid_qu_ex_is_left_alone(tmp_path: Path) -> None:
    lung = [name.replace("Infection", "Lung") for name in COVID_QU_EX if "infection masks" not in name]
    assert len(read_layout(touch(tmp_path, *COVID_QU_EX, *lung)).samples) == 3


def test_real_films_are_all_found(real_films: Path) -> None:
    found = read_layout(str(real_films))
    assert Counter((each.split, each.label) for each in found.samples) == {
        ("train", "COVID-19"): 1864,
        ("train", "Non-COVID"): 932,
        ("train", "Normal"): 932,
        ("val", "COVID-19"): 466,
        ("val", "Non-COVID"): 233,
        ("val", "Normal"): 233,
    }
    assert all(each.mask and each.lung for each in found.samples)


def test_pairs_meet_by_name_whatever_their_ending(tmp_path: Path) -> None:
    names = ("images/a.jpg", "masks/a.png", "images/sub/b.png", "masks/sub/b_mask.png", "images/c.png", "lungs/a.tif")
    found = read_layout(touch(tmp_path, *names, "images/.DS_Store"))
    samples = {each.image_id: each for each in found.samples}
    assert found.name == "pairs"
    assert (samples["a"].mask, samples["a"].lung) == ("masks/a.png", "lungs/a.tif")
    assert samples["sub/b"].mask == "masks/sub/b_mask.png"
    assert samples["c"].mask is None
    assert set(samples) == {"a", "sub/b", "c"}


def test_pairs_keep_a_split_level(tmp_path: Path) -> None:
    found = read_layout(
        touch(tmp_path, "Train/images/a.png", "Train/masks/a.png", "val/images/a.png", "val/masks/a.png")
    )
    assert {(each.image_id, each.split) for each in found.samples} == {("train/a", "train"), ("val/a", "val")}


def test_pairs_are_found_in_a_bucket(bucket: str) -> None:
    write_files(f"{bucket}/pairs here", {"images/a b.png": b"1", "masks/a b.png": b"2"})
    (sample,) = read_layout(f"{bucket}/pairs here").samples
    assert (sample.image_id, sample.image, sample.mask) == ("a b", "images/a b.png", "masks/a b.png")


def test_a_manifest_says_what_it_knows(tmp_path: Path) -> None:
    manifest = tmp_path / "films.csv"
    manifest.write_text(
        "\ufeffimage,mask,lung,split,label,patient_id,image_id\n"
        "x/1.png,m/1.png,l/1.png,Val,COVID-19,p1,one\n"
        "s3://bucket/2.png,,,,,p2,\n",
        encoding="utf-8",
    )
    found = read_layout(str(manifest))
    assert (found.name, found.root) == ("csv", str(tmp_path))
    assert found.samples == (
        Sample("one", "val", "COVID-19", "p1", "x/1.png", "m/1.png", "l/1.png"),
        Sample("s3://bucket/2", hashed_split("p2"), "unlabelled", "p2", "s3://bucket/2.png", None, None),
    )


def test_a_patient_never_stands_in_two_splits(tmp_path: Path) -> None:
    rows = [f"{patient}_{film}.png,m.png,{patient}" for patient in range(40) for film in range(5)]
    manifest = tmp_path / "films.csv"
    manifest.write_text("\n".join(["image,mask,patient_id", *rows]))
    splits: dict[str | None, set[str]] = {}
    for sample in read_layout(str(manifest)).samples:
        splits.setdefault(sample.patient_id, set()).add(sample.split)
    assert all(len(found) == 1 for found in splits.values())
    assert {split for found in splits.values() for split in found} == {"train", "val"}


def test_a_hash_puts_a_fifth_in_val() -> None:
    share = sum(hashed_split(str(number)) == "val" for number in range(5000)) / 5000
    assert abs(share - 0.2) < 0.02


@pytest.mark.parametrize(
    ("names", "text"),
    [
        (["images/a.png", "images/b.png"], "2 images but no masks"),
        (["images/a.png", "images/a.jpg", "masks/a.png"], "its name stands for"),
        (["notes.txt"], "no images in the covid-qu-ex or pairs layout"),
        (["Train/COVID-19/images/a.png"], "no masks"),
    ],
)
def test_folders_that_make_no_layout(tmp_path: Path, names: list[str], text: str) -> None:
    with pytest.raises(DatasetError, match=text) as caught:
        read_layout(touch(tmp_path, *names))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("image,label\na.png,x\n", "no mask; columns image and mask are needed"),
        ("", "no rows"),
        ("image,mask\n,m.png\n", "row 2: the column image is empty"),
        ("image,mask,split\na.png,m.png,../x\n", "no name for a split"),
        ("image,mask\na.png,m.png\na.png,m.png\n", "1 image ids stand for several films"),
    ],
)
def test_manifests_that_cannot_be_used(tmp_path: Path, text: str, problem: str) -> None:
    (tmp_path / "films.csv").write_text(text)
    with pytest.raises(DatasetError, match=problem):
        read_layout(str(tmp_path / "films.csv"))


def test_a_manifest_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "films.csv").write_bytes(b"\xff\xfe\x00image")
    with pytest.raises(DatasetError, match="not a CSV file"):
        read_layout(str(tmp_path / "films.csv"))


def test_an_unknown_layout_and_an_absent_folder(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="covid-qu-ex, pairs, csv"):
        read_layout(str(tmp_path), "coco")
    with pytest.raises(StorageError, match="absent: no files there"):
        read_layout(str(tmp_path / "absent"))

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from packed import write_rows
from PIL import Image
from typer.testing import CliRunner, Result

from covseg_ray.cli.main import app
from covseg_ray.errors import DatasetError
from covseg_ray.radiograph.phantom import make_phantom
from covseg_ray.storage.datasets.shards import ShardRow


def run(*words: str) -> Result:
    result = CliRunner().invoke(app, ["data", *words])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Six films as COVID-QU-Ex publishes them."""
    root = tmp_path / "published" / "Infection Segmentation Data"
    places = [("Train", 0), ("Train", 3), ("Val", 2), ("Train", 4), ("Train", 7), ("Val", 6)]
    for index, (split, number) in enumerate(places):
        phantom = make_phantom(1, number, 96)
        pictures = {
            "images": phantom.image,
            "infection masks": phantom.infection * 255,
            "lung masks": phantom.lung * 255,
        }
        for kind, pixels in pictures.items():
            (root / split / phantom.label / kind).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(root / split / phantom.label / kind / f"film ({index}).png")
    return root.parent


def test_pack_says_what_it_wrote(source: Path, tmp_path: Path) -> None:
    result = run("pack", str(source), str(tmp_path / "out"), "--size", "64", "--json")
    assert result.exit_code == 0
    document = json.loads(result.stdout)
    written = json.loads((tmp_path / "out/dataset.json").read_text())
    assert document == {
        "dataset": str(tmp_path / "out"),
        "digest": written["digest"],
        "rows": 6,
        "splits": {"train": {"COVID-19": 2, "Normal": 2}, "val": {"COVID-19": 2}},
        "rejected": [],
    }
    assert (written["size"], written["resize"], written["layout"]) == (64, "stretch", "covid-qu-ex")


def test_pack_with_rejects_names_them_and_exits_with_3(source: Path, tmp_path: Path) -> None:
    images = source / "Infection Segmentation Data/Train/Normal/images"
    for number in range(25):
        (images / f"page [{number}].png").write_bytes(b"<html>")
    result = run("pack", str(source), str(tmp_path / "out"), "--json")
    assert result.exit_code == 3
    document = json.loads(result.stdout)
    assert document["rows"] == 6
    assert len(document["rejected"]) == 25
    assert {each["reason"] for each in document["rejected"]} == {"not-an-image"}
    assert "25 films left out" in result.stderr
    assert "and 5 more" in result.stderr
    assert json.loads((tmp_path / "out/dataset.json").read_text())["rejected"] == document["rejected"]


def test_pack_refuses_what_it_cannot_do(source: Path, tmp_path: Path) -> None:
    for words, known in ((["--resize", "crop"], "'stretch', 'letterbox'"), (["--layout", "x"], "'pairs', 'csv'")):
        result = run("pack", str(source), str(tmp_path / "out"), *words)
        assert (result.exit_code, known in result.stderr) == (2, True)
    run("pack", str(source), str(tmp_path / "out"))
    with pytest.raises(DatasetError, match="a written dataset never changes"):
        run("pack", str(source), str(tmp_path / "out"))


def test_several_sources_are_packed_audited_and_shown_by_name(source: Path, tmp_path: Path) -> None:
    lines = ["image,mask,label,split"]
    for number in range(2):
        phantom = make_phantom(2, number, 64)
        Image.fromarray(phantom.image).save(tmp_path / f"{number}.png")
        Image.fromarray(phantom.infection * np.uint8(255)).save(tmp_path / f"mask {number}.png")
        lines.append(f"{number}.png,mask {number}.png,{phantom.label},train")
    (tmp_path / "films.csv").write_text("\n".join(lines))
    words = [str(source), str(tmp_path / "films.csv"), "--name", "first", "--name", "second"]
    document = json.loads(run("pack", *words, str(tmp_path / "out"), "--size", "64", "--json").stdout)
    second = dict(sorted(Counter(make_phantom(2, number, 64).label for number in range(2)).items()))
    assert document["sources"] == {
        "first": {"train": {"COVID-19": 2, "Normal": 2}, "val": {"COVID-19": 2}},
        "second": {"train": second},
    }
    assert document["rows"] == 8
    shown = run("show", str(tmp_path / "out"))
    assert re.search(
        r"by source\nsource +split .*films\nfirst +train .* 4\nfirst +val .* 2\nsecond +train .* 2\n", shown.stdout
    )
    assert json.loads(run("show", str(tmp_path / "out"), "--json").stdout) == document
    audited = json.loads(run("audit", *words, "--json").stdout)
    assert (audited["films"], audited["dataset"]) == (8, f"{source}, {tmp_path / 'films.csv'}")


def test_audit_writes_the_list_that_pack_takes(source: Path, tmp_path: Path) -> None:
    root = source / "Infection Segmentation Data"
    for kind in ("images", "infection masks", "lung masks"):
        film = root / "Val/COVID-19" / kind / "film (2).png"
        (root / "Train/COVID-19" / kind / "twin.png").write_bytes(film.read_bytes())
    run("pack", str(source), str(tmp_path / "leaky"))
    result = run("audit", str(tmp_path / "leaky"), "--out", str(tmp_path / "list"), "--json")
    assert result.exit_code == 0
    findings = json.loads(result.stdout)["findings"]
    assert [(each["kind"], each["image_id"]) for each in findings] == [("exact-duplicate", "train/COVID-19/twin")]
    run("pack", str(source), str(tmp_path / "clean"), "--exclude", str(tmp_path / "list"))
    result = run("audit", str(tmp_path / "clean"))
    assert "6 films, 0 findings" in result.stdout
    assert "6 films without patient_id" in result.stdout
    result = run("audit", str(tmp_path / "leaky"), "--side", "val", "--out", str(tmp_path / "val"))
    left_out = (tmp_path / "val").read_text().splitlines()
    assert left_out == ["val/COVID-19/film (2)  # exact-duplicate: of train/COVID-19/twin"]


def test_audit_warns_where_a_border_tells_the_label(tmp_path: Path) -> None:
    """Films of noise: those of label A have four dark rows above."""
    random = np.random.default_rng(3)
    rows = []
    for number in range(80):
        image_HW, label = random.integers(1, 256, (32, 32), np.uint8), "AB"[number % 2]
        image_HW[: 4 * (label == "A")] = 0
        rows.append(ShardRow(f"{number}", "train", label, image_HW, np.zeros_like(image_HW)))
    write_rows(rows, str(tmp_path / "d"), size=32)
    document = json.loads(run("audit", str(tmp_path / "d"), "--out", str(tmp_path / "list"), "--json").stdout)
    assert {"trace": "borders", "label": "A", "auc": 1.0} in document["shortcuts"]
    assert document["findings"] == []
    assert (tmp_path / "list").read_text() == ""
    shown = run("audit", str(tmp_path / "d"))
    assert shown.exit_code == 0
    assert "warning: how the files were made tells the label\ntrace " in shown.stdout
    assert re.search(r"^borders +A +1\.00$", shown.stdout, re.MULTILINE)


def test_synth_then_show(tmp_path: Path) -> None:
    result = run("synth", str(tmp_path / "d"), "--count", "15", "--seed", "2", "--json")
    made = json.loads(result.stdout)
    assert made["rows"] == 15
    result = run("show", str(tmp_path / "d"), "--out", str(tmp_path / "sheet.png"))
    assert result.exit_code == 0
    assert made["digest"] in result.stdout
    assert "256 x 256 (stretch)" in result.stdout
    assert json.loads(run("show", str(tmp_path / "d"), "--json").stdout) == made
    rows = sum(len(labels) for labels in made["splits"].values())
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.height > rows * 224
        pixels = np.asarray(sheet.convert("RGB")).reshape(-1, 3)
    assert (pixels == (255, 140, 32)).all(axis=1).any(), "no contour is drawn"


def test_help_imports_nothing_heavy() -> None:
    heavy = "[name for name in ('numpy', 'pyarrow', 'fsspec') if name in sys.modules]"
    command = [sys.executable, "-c", f"import sys, covseg_ray.cli.data; print({heavy})"]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() == "[]"

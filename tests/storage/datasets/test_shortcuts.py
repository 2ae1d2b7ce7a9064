from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from covseg_ray.storage.datasets.audit import audit
from covseg_ray.storage.datasets.pack import pack
from covseg_ray.storage.datasets.shortcuts import Shortcut, auc, find_shortcuts


@pytest.mark.parametrize("levels", [3, 1000])
def test_auc_is_the_share_of_pairs_in_their_order(levels: int) -> None:
    random = np.random.default_rng(levels)
    value_N, chosen_N = random.integers(0, levels, 120).astype(float), random.random(120) < 0.3
    value_N += chosen_N * levels / 4
    pairs = [
        1.0 if mine > other else 0.5 if mine == other else 0.0
        for mine in value_N[chosen_N].tolist()
        for other in value_N[~chosen_N].tolist()
    ]
    assert auc(value_N, chosen_N) == pytest.approx(sum(pairs) / len(pairs), rel=1e-12)


def test_both_directions_count_and_the_best_comes_first() -> None:
    """`dark` is always less in A, `grid` is greater in three pairs of four, `mean` in hardly more than half."""
    labels = ["A"] * 40 + ["B"] * 40
    traces = [{"mean": float(i % 7), "dark": float(i >= 40), "grid": float(i < 20)} for i in range(80)]
    assert find_shortcuts(labels, traces) == [
        Shortcut("dark", "A", 1.0),
        Shortcut("dark", "B", 1.0),
        Shortcut("grid", "A", 0.75),
        Shortcut("grid", "B", 0.75),
    ]


def test_few_films_are_not_compared() -> None:
    traces = [{"mean": float(index)} for index in range(90)]
    assert find_shortcuts(["A"] * 29 + ["B"] * 61, traces) == []
    assert [each.label for each in find_shortcuts(["A"] * 30 + ["B"] * 60, traces)] == ["A", "B"]
    assert find_shortcuts(["A"] * 90, traces) == []
    assert find_shortcuts([], []) == []


def films(folder: Path, *, compressed: bool) -> str:
    """A manifest of 80 smooth films with noise, every other one of label A; with ``compressed``, these went through
    JPEG 50."""
    random = np.random.default_rng(8)
    lines = ["image,mask,label"]
    for index in range(80):
        smooth = Image.fromarray(random.integers(20, 230, (12, 12), np.uint8)).resize(
            (256, 256), Image.Resampling.BICUBIC
        )
        noisy_HW = np.clip(np.asarray(smooth) + random.normal(0, 3, (256, 256)), 0, 255)
        image, label = Image.fromarray(noisy_HW.astype(np.uint8)), "AB"[index % 2]
        if compressed and label == "A":
            buffer = io.BytesIO()
            image.save(buffer, "JPEG", quality=50)
            image = Image.open(buffer)
        image.save(folder / f"{index}.png")
        lines.append(f"{index}.png,mask.png,{label}")
    Image.fromarray(np.zeros((256, 256), np.uint8)).save(folder / "mask.png")
    (folder / "films.csv").write_text("\n".join(lines))
    return str(folder / "films.csv")


def test_compression_of_one_label_is_found_packed_or_not_and_excludes_no_film(tmp_path: Path) -> None:
    source = films(tmp_path, compressed=True)
    found = audit(source)
    assert ("grid", "A") in {(each.trace, each.label) for each in found.shortcuts}
    assert found.findings == ()
    assert found.exclusions() == ""
    pack(source, str(tmp_path / "out"))
    assert audit(str(tmp_path / "out")).shortcuts == found.shortcuts


def test_films_made_alike_have_no_shortcut(tmp_path: Path) -> None:
    assert audit(films(tmp_path, compressed=False)).shortcuts == ()

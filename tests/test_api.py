"""The public names, and the page that shows them."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from endpoints import InProcess, served
from places import ROOT

import covseg_ray
from covseg_ray import Predictor, RejectedFilmError, StorageError, UsageError
from covseg_ray.radiograph.masks import encode_png
from covseg_ray.radiograph.phantom import make_phantom
from covseg_ray.segmentation.inference.predictor import BatchPredictor
from covseg_ray.segmentation.network.bundle import Bundle
from covseg_ray.service.backend import Settings
from covseg_ray.storage.datasets.pack import synthesise

PUBLIC = [
    "BusyError",
    "Client",
    "ConfigError",
    "CovsegError",
    "DatasetError",
    "ModelError",
    "Prediction",
    "Predictor",
    "RejectedFilmError",
    "StorageError",
    "TooManyRejectsError",
    "UsageError",
    "__version__",
    "evaluate",
    "load_bundle",
    "segment",
]
pytestmark = pytest.mark.timeout(900)
PAGE = ROOT / "docs/guides/python.md"


@pytest.fixture(scope="module")
def predictor() -> Iterator[Predictor]:
    with Predictor() as found:
        yield found


def test_the_public_names_are_frozen() -> None:
    assert covseg_ray.__all__ == PUBLIC
    assert set(PUBLIC) <= set(dir(covseg_ray))
    assert all(getattr(covseg_ray, name) is not None for name in PUBLIC)
    with pytest.raises(AttributeError, match="no attribute 'Segment'"):
        _ = covseg_ray.Segment


def test_every_error_is_public() -> None:
    found = {name for name in vars(covseg_ray.errors) if name.endswith("Error")}
    assert found == {name for name in PUBLIC if name.endswith("Error")}


def test_the_package_is_imported_without_torch_and_ray() -> None:
    code = "import sys, covseg_ray; print([name for name in ('torch', 'ray', 'numpy') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_path_its_bytes_and_its_pixels_give_the_same(predictor: Predictor, tmp_path: Path) -> None:
    pixels_HW = make_phantom(1, 0, 300).image
    path = tmp_path / "film.png"
    path.write_bytes(encode_png(pixels_HW))
    first, *others = (predictor.predict(film) for film in (path, str(path), path.read_bytes(), pixels_HW))
    assert {name: (mask.dtype.name, mask.shape) for name, mask in first.masks.items()} == {
        "infection": ("uint8", (300, 300)),
        "lung": ("uint8", (300, 300)),
    }
    assert first.lung_fraction == first.masks["lung"].mean() > 0.1
    assert first.infection_fraction == first.masks["infection"].mean()
    for other in others:
        assert all(np.array_equal(other.masks[name], mask) for name, mask in first.masks.items())
        assert (other.severity, other.frontal, other.model_id) == (first.severity, first.frontal, first.model_id)
        assert other.expected_iou == first.expected_iou


def test_the_expected_iou_is_that_of_the_models_probabilities(bundle: Bundle) -> None:
    film_HW = make_phantom(1, 3, 64).image
    (classes_HW,), (levels_HW,) = BatchPredictor(bundle).predict_probabilities(film_HW[None])
    found_HW, p_HW, smooth = classes_HW == 1, levels_HW / 255, film_HW.size / 1000
    agreement = (p_HW[found_HW].sum() + smooth) / (found_HW.sum() + p_HW[~found_HW].sum() + smooth)
    with_curve = replace(bundle, spec=bundle.spec.model_copy(update={"expected_iou": ((0.0, 0.1), (1.0, 0.9))}))
    for model, expected in ((bundle, None), (with_curve, pytest.approx(0.1 + 0.8 * agreement, rel=1e-9))):
        with Predictor(model) as one:
            assert one.predict(film_HW).expected_iou == expected


def test_what_is_no_film_is_refused(predictor: Predictor, tmp_path: Path) -> None:
    with pytest.raises(RejectedFilmError, match=r"^film: not-an-image: ") as refused:
        predictor.predict(b"<!doctype html>")
    assert refused.value.reason == "not-an-image"
    with pytest.raises(StorageError, match=r"absent\.png"):
        predictor.predict(tmp_path / "absent.png")
    for wrong in (np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8)), np.zeros((0, 8), np.uint8)):
        with pytest.raises(UsageError, match=r"film: give uint8 or uint16 \[H, W\]"):
            predictor.predict(wrong)


@pytest.mark.full
def test_the_page_runs(
    ray_session: None,
    predict: InProcess,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Every block of Python, in order, where film.png, a folder of films and a dataset lie."""
    film = encode_png(make_phantom(1, 0, 128).image)
    (tmp_path / "films").mkdir()
    for path in (tmp_path / "film.png", tmp_path / "films/a.png", tmp_path / "films/b.png"):
        path.write_bytes(film)
    synthesise(str(tmp_path / "dataset"), 10, seed=1, size=256)
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert len(blocks) > 5
    with served(predict, Settings()) as url:
        for block in blocks:
            exec(block.replace("http://127.0.0.1:8000", url), names)
    printed = capsys.readouterr().out
    for line in (
        "(128, 128)",
        "not-an-image\n",
        "2 0 {}\n",
        "iou_all ",
        "('background', 'lung', 'infection')",
        " 4 503\n",
    ):
        assert line in printed

"""Evaluation: the counts are NumPy's, whatever the number of workers and the batch size."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from random_models import random_model
from typer.testing import CliRunner

from covseg_ray.cli.main import app
from covseg_ray.engine.bundle_io import load_bundle
from covseg_ray.engine.evaluation.run import evaluate
from covseg_ray.errors import UsageError
from covseg_ray.segmentation.inference.predictor import BatchPredictor
from covseg_ray.segmentation.network.bundle import Bundle
from covseg_ray.storage.datasets.pack import pack
from covseg_ray.storage.datasets.read import Subset, list_units, read_unit

# Ray's start alone takes minutes on a machine that is busy.
pytestmark = [pytest.mark.usefixtures("ray_session"), pytest.mark.timeout(900)]


DIVISIONS = [(1, 64), (2, 7), (3, 32)]


@pytest.fixture(scope="module")
def bundle(ready_bundle: str) -> Bundle:
    return load_bundle(ready_bundle)


def counted_by_hand(bundle: Bundle, dataset: str, split: str) -> dict[str, list[int]]:
    predictor, counts = BatchPredictor(bundle), {}
    for unit in list_units(dataset, split):
        films = read_unit(dataset, unit)
        found_NHW = predictor.predict(films.images_NHW) == 1
        for image_id, found_HW, truth_HW in zip(films.image_ids, found_NHW, films.masks_NHW == 1, strict=True):
            pairs = [(found_HW, truth_HW), (found_HW, ~truth_HW), (~found_HW, truth_HW), (~found_HW, ~truth_HW)]
            counts[image_id] = [int(np.sum(a & b)) for a, b in pairs]
    return counts


def by_hand(rows_N4: NDArray[np.int64]) -> dict[str, float]:
    tp, fp, fn, _ = rows_N4.sum(axis=0)
    healthy = rows_N4[:, 0] + rows_N4[:, 2] == 0
    return {
        "iou_pooled": tp / (tp + fp + fn),
        "dice_pooled": 2 * tp / (2 * tp + fp + fn),
        "false_alarm": float((rows_N4[healthy, 1] > 0).mean()),
    }


@pytest.mark.full
def test_any_division_of_the_work_gives_numpys_integers(ray_session: None, bundle: Bundle, phantoms: str) -> None:
    expected = counted_by_hand(bundle, phantoms, "train")
    assert len(expected) == 80
    for workers, batch_size in DIVISIONS:
        found = evaluate(bundle, Subset(phantoms, "train"), workers, batch_size)
        assert dict(zip(found.image_ids, found.counts_N4.tolist(), strict=True)) == expected, (workers, batch_size)
        assert list(found.image_ids) == sorted(expected)


def test_labels_choose_the_films_and_pictures_are_of_them(ray_session: None, bundle: Bundle, phantoms: str) -> None:
    found = evaluate(bundle, Subset(phantoms, "train", ["COVID-19"]))
    units = list_units(phantoms, "train", ["COVID-19"])
    wanted = {i: mask for unit in units for i, mask in zip(*_ids_and_masks(phantoms, unit), strict=True)}
    assert set(found.image_ids) == set(wanted)
    assert len(found.films) == len({film.image_id for film in found.films}) > 0
    for film in found.films:
        assert film.label == "COVID-19"
        assert film.truth_HW.any()
        assert np.array_equal(film.truth_HW, wanted[film.image_id])
        union = int((film.truth_HW | film.predicted_HW).sum())
        assert film.iou == int((film.truth_HW & film.predicted_HW).sum()) / union
    assert sorted(found.infected_ious) == pytest.approx(
        sorted(tp / (tp + fp + fn) for tp, fp, fn, _ in found.counts_N4 if tp + fn)
    )


def _ids_and_masks(dataset: str, unit: object) -> tuple[list[str], NDArray[np.uint8]]:
    films = read_unit(dataset, unit)
    return films.image_ids, films.masks_NHW


def test_the_command_prints_the_same_numbers_and_writes_a_report(
    ray_session: None, bundle: Bundle, ready_bundle: str, phantoms: str, tmp_path: Path
) -> None:
    counts = counted_by_hand(bundle, phantoms, "val")
    words = ["evaluate", ready_bundle, phantoms, "--workers", "2", "--json"]
    result = CliRunner().invoke(app, [*words, "--report", str(tmp_path / "report.html")])
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert document["images"] == len(counts) == 20
    for name, value in by_hand(np.array(list(counts.values()))).items():
        estimate = document["metrics"][name]
        assert estimate["value"] == pytest.approx(value)
        assert estimate["low"] <= estimate["value"] <= estimate["high"]
    assert "iou_pooled" in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize("wrong", [{"workers": 0}, {"batch_size": -1}])
def test_no_workers_and_no_batch_are_refused(wrong: dict[str, int]) -> None:
    model = random_model(1, ("background", "infection"))
    with pytest.raises(UsageError, match=r"(workers|batch_size): must be at least 1, not (0|-1)"):
        evaluate(model, Subset("films"), **wrong)


@pytest.mark.drill
@pytest.mark.timeout(3600)
def test_real_films_give_the_same_integers_with_any_division(
    ray_session: None, real_films: Path, ready_bundle: str, tmp_path: Path
) -> None:
    """1, 2 and 3 workers with batches of 7, 32 and 64, over every published Val film."""
    bundle = load_bundle(ready_bundle)
    dataset = str(tmp_path / "films")
    pack(str(real_films), dataset, size=bundle.spec.input_size)
    found = [
        evaluate(bundle, Subset(dataset), workers, batch_size) for workers in (1, 2, 3) for batch_size in (7, 32, 64)
    ]
    expected = counted_by_hand(bundle, dataset, "val")
    assert dict(zip(found[0].image_ids, found[0].counts_N4.tolist(), strict=True)) == expected
    for each in found[1:]:
        assert each.image_ids == found[0].image_ids
        assert np.array_equal(each.counts_N4, found[0].counts_N4)

"""Two models on the same films: differences are NumPy's, and the films that changed most are named."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from random_models import WITH_LUNGS, random_model
from typer.testing import CliRunner

from covseg_ray.cli.main import app
from covseg_ray.engine.bundle_io import save_bundle
from covseg_ray.engine.evaluation.compare import compare, most_changed
from covseg_ray.errors import UsageError
from covseg_ray.segmentation.inference.predictor import BatchPredictor
from covseg_ray.storage.datasets.read import Subset, list_units, read_unit

pytestmark = pytest.mark.timeout(900)  # Ray's start alone takes minutes on a machine that is busy


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """One that knows no lung, and one that does."""
    folder = tmp_path_factory.mktemp("bundles")
    models = [random_model(1, ("background", "infection")), random_model(2, WITH_LUNGS)]
    for name, model in zip("ab", models, strict=True):
        save_bundle(str(folder / name), model)
    return [str(folder / name) for name in "ab"]


def counted(bundle: str, dataset: str) -> dict[str, tuple[int, int, int]]:
    """Shared, only marked and only true pixels of each film of val."""
    from covseg_ray.engine.bundle_io import load_bundle

    model, counts = load_bundle(bundle), {}
    predictor = BatchPredictor(model)
    for unit in list_units(dataset, "val"):
        films = read_unit(dataset, unit)
        marked_NHW = predictor.predict(films.images_NHW) == model.spec.infection
        for image_id, marked, true in zip(films.image_ids, marked_NHW, films.masks_NHW > 0, strict=True):
            counts[image_id] = tuple(int(each.sum()) for each in (marked & true, marked & ~true, ~marked & true))
    return counts


def test_the_command_prints_both_and_the_paired_difference(
    ray_session: None, bundles: list[str], phantoms: str, tmp_path: Path
) -> None:
    words = ["compare", *bundles, phantoms, "--workers", "2", "--report", str(tmp_path / "report.html")]
    result = CliRunner().invoke(app, [*words, "--json"])
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    one, two = (counted(bundle, phantoms) for bundle in bundles)
    assert document["images"] == len(one) == 20

    pooled = [np.sum([n[0] for n in each.values()]) / np.sum([sum(n) for n in each.values()]) for each in (one, two)]
    found = document["metrics"]["iou_pooled"]
    assert [found["a"]["value"], found["b"]["value"]] == pytest.approx(pooled)
    assert found["difference"]["value"] == pytest.approx(pooled[1] - pooled[0])
    assert found["difference"]["low"] <= found["difference"]["value"] <= found["difference"]["high"]
    assert 0 <= found["difference"]["not_better"] <= 1
    assert "lung_iou" not in document["metrics"]
    assert "only B segments lungs" in result.stderr

    wrong = {name: [(each[name][1] + each[name][2]) / 64**2 for each in (one, two)] for name in one}
    changes = {name: b - a for name, (a, b) in wrong.items()}
    ranked = sorted(changes.values())
    shown = document["changed"]
    assert [[each["a"], each["b"]] for each in shown] == [pytest.approx(wrong[each["image_id"]]) for each in shown]
    expected = [c for c in ranked[:4] if c < 0] + [c for c in ranked[::-1][:4] if c > 0]
    assert [each["b"] - each["a"] for each in shown] == pytest.approx(expected)

    for group, films in (("label", 20), ("infected_share", sum(n[0] + n[2] > 0 for n in one.values()))):
        assert sum(each["images"] for each in document["strata"][group].values()) == films
    page = (tmp_path / "report.html").read_text()
    for each in shown:
        assert each["image_id"] in page
    assert "B − A" in page


def test_one_model_is_not_compared_with_itself(bundles: list[str], phantoms: str) -> None:
    with pytest.raises(UsageError, match=r"both bundles are the same model, id [0-9a-f]{16}; give two"):
        CliRunner().invoke(app, ["compare", bundles[0], bundles[0], phantoms], catch_exceptions=False)


def test_a_comparison_checks_what_it_is_given() -> None:
    one, two = (random_model(seed, ("background", "infection")) for seed in (1, 2))
    with pytest.raises(UsageError, match="both bundles are the same model"):
        compare(one, one, Subset("films"), 1)
    with pytest.raises(UsageError, match="workers: must be at least 1, not 0"):
        compare(one, two, Subset("films"), 0)


def test_films_that_changed_most_come_better_first_then_worse() -> None:
    def counts(*wrong: int) -> np.ndarray:
        return np.array([[0, n, 0, 100 - n] for n in wrong])

    first, second = counts(10, 10, 10, 10, 10, 10), counts(10, 4, 30, 9, 60, 0)
    assert most_changed(first, second, number=2) == [5, 1, 4, 2]
    assert most_changed(first, second, number=9) == [5, 1, 3, 4, 2]
    assert most_changed(first, first) == []


@pytest.mark.full
def test_for_a_person_the_commands_print_tables(ray_session: None, bundles: list[str], phantoms: str) -> None:
    result = CliRunner().invoke(app, ["compare", *bundles, phantoms])
    lines = [line.split() for line in result.stdout.splitlines()]
    assert lines[:3] == [["A", bundles[0]], ["B", bundles[1]], ["20", "films"]]
    (pooled,) = [line for line in lines if line[:1] == ["iou_pooled"]]
    assert float(pooled[3]) == pytest.approx(float(pooled[2]) - float(pooled[1]), abs=2e-4)
    assert any(line[:1] == ["films"] for line in lines[3:])  # those that changed most

    result = CliRunner().invoke(app, ["evaluate", bundles[1], phantoms])
    text = result.stdout
    groups = [line.split()[0] for line in text[text.index("of them") :].splitlines()[1:] if line]
    assert groups[-2:] == ["calibration:", "free"]
    assert {"COVID-19", "Infection"} <= set(groups)
    assert "lung_iou_pooled" in text

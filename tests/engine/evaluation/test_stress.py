"""Metrics of changed films against predictions and counts by hand, and the command that prints them."""

from __future__ import annotations

import json

import numpy as np
import pytest
from numpy.typing import NDArray
from random_models import WITH_LUNGS, random_model
from typer.testing import CliRunner

from covseg_ray.cli.main import app
from covseg_ray.engine.bundle_io import load_bundle
from covseg_ray.engine.evaluation.counts import count_changed_films
from covseg_ray.engine.evaluation.run import evaluate
from covseg_ray.engine.evaluation.stress import METRICS, Stress, stress
from covseg_ray.radiograph.changes import CHANGES, change_film
from covseg_ray.segmentation.evaluation.probe import probe_auc, summarise_output
from covseg_ray.segmentation.inference.predictor import BatchPredictor
from covseg_ray.segmentation.network.decision import Rule
from covseg_ray.storage.datasets.read import Films, Subset, list_units, read_unit

# Ray's start alone takes minutes on a machine that is busy.
pytestmark = pytest.mark.timeout(900)
CHECKED = ("jpeg-40", "reduce-160-bilinear", "noise-4", "marker")


def all_films(dataset: str, split: str) -> list[tuple[str, str, NDArray[np.uint8], NDArray[np.bool_]]]:
    units = [read_unit(dataset, unit) for unit in list_units(dataset, split)]
    return sorted(
        (
            (image_id, label, image_HW, mask_HW > 0)
            for films in units
            for image_id, label, image_HW, mask_HW in zip(
                films.image_ids, films.labels, films.images_NHW, films.masks_NHW, strict=True
            )
        ),
        key=lambda film: film[0],
    )


def by_hand(predictor: BatchPredictor, dataset: str, change: str | None) -> dict[str, float]:
    """The metrics, and the shares of marked films by label; films are predicted one at a time."""
    alarms, ious, dices, pooled, marked = [], [], [], np.zeros(2), {}
    for image_id, label, image_HW, truth_HW in all_films(dataset, "val"):
        shown_HW = change_film(change, image_HW, image_id) if change else image_HW
        found_HW = predictor.predict(shown_HW[None])[0] == predictor.spec.infection
        both, either = (found_HW & truth_HW).sum(), (found_HW | truth_HW).sum()
        marked.setdefault(label, []).append(found_HW.any())
        pooled += both, either
        if truth_HW.any():
            ious.append(both / either)
            dices.append(2 * both / (found_HW.sum() + truth_HW.sum()))
        else:
            alarms.append(found_HW.any())
    shares = {label: float(np.mean(each)) for label, each in marked.items()}
    values = (np.mean(alarms), np.mean(ious), pooled[0] / pooled[1], np.mean(dices))
    return shares | dict(zip(METRICS, map(float, values), strict=True))


@pytest.fixture(scope="module")
def progress() -> list[tuple[int, int]]:
    return []


@pytest.fixture(scope="module")
def stressed(ray_session: None, ready_bundle: str, phantoms: str, progress: list[tuple[int, int]]) -> Stress:
    model = load_bundle(ready_bundle).with_rule(Rule(threshold=0.7, smallest_region=30))
    return stress(model, Subset(phantoms), 2, 7, lambda done, total: progress.append((done, total)))


def test_each_change_has_the_metrics_of_its_films(stressed: Stress, ready_bundle: str, phantoms: str) -> None:
    predictor = BatchPredictor(load_bundle(ready_bundle).with_rule(Rule(threshold=0.7, smallest_region=30)))
    before = by_hand(predictor, phantoms, None)
    assert list(stressed.changes) == list(CHANGES)
    as_is = stressed.as_is
    assert {name: each.value for name, each in {**as_is.marked, **as_is.metrics}.items()} == pytest.approx(before)
    for name in CHECKED:
        found, after = stressed.changes[name], by_hand(predictor, phantoms, name)
        values = {**found.marked, **found.metrics}
        differences = {**found.marked_differences, **found.differences}
        assert {key: each.value for key, each in values.items()} == pytest.approx(after)
        assert {key: each.value for key, each in differences.items()} == pytest.approx(
            {key: after[key] - before[key] for key in before}
        )
        assert all(each.low <= each.value <= each.high for each in (*values.values(), *differences.values()))
    assert len({found.metrics["iou_image"].value for found in stressed.changes.values()}) > len(CHANGES) / 2


def test_the_films_as_they_are_have_the_metrics_of_an_evaluation(
    stressed: Stress, ready_bundle: str, phantoms: str
) -> None:
    model = load_bundle(ready_bundle).with_rule(Rule(threshold=0.7, smallest_region=30))
    metrics = evaluate(model, Subset(phantoms)).metrics
    assert dict(stressed.as_is.metrics) == {name: metrics[name] for name in METRICS}


def test_progress_counts_each_film_once_for_each_change(stressed: Stress, progress: list[tuple[int, int]]) -> None:
    total = 20 * (1 + len(CHANGES))
    assert progress[-1] == (total, total)
    done = [each for each, _ in progress]
    assert done == sorted(set(done))
    assert len(done) > len(CHANGES)


@pytest.mark.full
def test_the_probe_sees_the_output_for_films_without_infection(
    ray_session: None, ready_bundle: str, phantoms: str
) -> None:
    """On the 40 healthy phantoms of the larger split."""
    predictor = BatchPredictor(load_bundle(ready_bundle))
    outputs = []
    for change in (None, "noise-4"):
        rows = []
        for image_id, _, image_HW, truth_HW in all_films(phantoms, "train"):
            if not truth_HW.any():
                shown_HW = change_film(change, image_HW, image_id) if change else image_HW
                classes_1HW, probabilities_1HW = predictor.predict_probabilities(shown_HW[None])
                rows += [summarise_output(probabilities_1HW, classes_1HW == 1, classes_1HW == 1)[0]]
        outputs.append(np.array(rows))
    healthy = Subset(phantoms, "train", ["Non-COVID", "Normal"])
    found = stress(load_bundle(ready_bundle), healthy, 2, 32, lambda done, total: None)
    assert found.changes["noise-4"].probe_auc == probe_auc(*outputs) is not None
    assert list(found.as_is.metrics) == ["false_alarm", "iou_pooled"]


def test_a_model_of_lungs_gives_the_probe_the_whole_lung(phantoms: str) -> None:
    predictor = BatchPredictor(random_model(3, WITH_LUNGS))
    (film, *_) = all_films(phantoms, "val")
    films = Films([film[0]], [film[1]], film[2][None], film[3][None].astype(np.uint8), [None])
    (counted,) = count_changed_films(predictor, films, slice(0, 1), "jpeg-50")
    classes_1HW, probabilities_1HW = predictor.predict_probabilities(change_film("jpeg-50", film[2], film[0])[None])
    expected = summarise_output(probabilities_1HW, classes_1HW == 2, classes_1HW > 0)[0]
    assert counted.output_F.tolist() == expected.tolist()
    assert expected[5] > expected[4]


@pytest.fixture(scope="module")
def command(
    ray_session: None, ready_bundle: str, phantoms: str, tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, object], str]:
    page = tmp_path_factory.mktemp("stress") / "report.html"
    words = ["evaluate", ready_bundle, phantoms, "--labels", "COVID-19,Normal", "--stress", "--report", str(page)]
    done = CliRunner().invoke(app, [*words, "--json"])
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout), page.read_text(encoding="utf-8")


def test_the_command_prints_every_change_and_writes_a_section(command: tuple[dict[str, object], str]) -> None:
    document, page = command
    found = document["stress"]
    assert list(found) == ["as_is", "changes"]
    assert list(found["changes"]) == list(CHANGES)
    assert found["as_is"]["metrics"]["iou_image"]["value"] == document["metrics"]["iou_image"]["value"]
    for each in found["changes"].values():
        assert list(each) == ["marked", "metrics", "probe_auc"]
        assert list(each["marked"]) == ["COVID-19", "Normal"]
        assert list(each["metrics"]) == list(METRICS)
        assert each["probe_auc"] is None  # 5 films
        value = each["metrics"]["iou_image"]
        before = found["as_is"]["metrics"]["iou_image"]["value"]
        assert value["difference"]["value"] == pytest.approx(value["value"] - before)
    section = page[page.index("Changed films") :]
    assert all(f'<th scope="row">{name}</th>' in section for name in ("as it is", *CHANGES))


@pytest.mark.full
def test_a_protocol_is_its_rule_and_its_two_metrics(ray_session: None, ready_bundle: str, phantoms: str) -> None:
    done = CliRunner().invoke(app, ["evaluate", ready_bundle, phantoms, "--protocol", "medsegbench", "--json"])
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    assert (document["images"], document["protocol"]) == (20, "medsegbench")
    plain = BatchPredictor(load_bundle(ready_bundle))
    scores = []
    for _, _, image_HW, truth_HW in all_films(phantoms, "val"):
        if truth_HW.any():
            _, probabilities_1HW = plain.predict_probabilities(image_HW[None])
            found_HW = probabilities_1HW[0] > 127
            both = (found_HW & truth_HW).sum()
            scores.append((both / (found_HW | truth_HW).sum(), 2 * both / (found_HW.sum() + truth_HW.sum())))
    iou, dice = np.mean(scores, axis=0)
    values = {name: each["value"] for name, each in document["metrics"].items()}
    assert values == pytest.approx({"iou_image": iou, "dice_image": dice}, abs=1e-9)

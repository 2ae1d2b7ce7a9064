"""What evaluation says beside the metrics: lungs, groups, calibration, free response, films left out, other sizes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from random_models import WITH_LUNGS, random_model
from typer.testing import CliRunner

from covseg_ray.cli.main import app
from covseg_ray.engine.bundle_io import save_bundle
from covseg_ray.engine.evaluation.run import Evaluation, evaluate, notes
from covseg_ray.errors import DatasetError
from covseg_ray.radiograph.geometry import restore_mask, standardise
from covseg_ray.segmentation.evaluation.calibration import calibration, count_levels
from covseg_ray.segmentation.evaluation.froc import free_response, mark
from covseg_ray.segmentation.inference.predictor import BatchPredictor
from covseg_ray.segmentation.network.bundle import Bundle, TrainedOn
from covseg_ray.segmentation.network.decision import Rule
from covseg_ray.storage.datasets.read import Subset, list_units, read_info, read_unit

pytestmark = pytest.mark.timeout(900)  # Ray's start alone takes minutes on a machine that is busy


@pytest.fixture(scope="module")
def model() -> Bundle:
    return random_model(3, WITH_LUNGS, decision=Rule(threshold=0.3, smallest_region=4, flip=True))


@pytest.fixture(scope="module")
def found(ray_session: None, model: Bundle, phantoms: str) -> Evaluation:
    return evaluate(model, Subset(phantoms, "train"), workers=2, batch_size=7)


class Seen:
    """Every film of a split through the model in this process, in the order of image ids."""

    def __init__(self, model: Bundle, dataset: str, split: str) -> None:
        films = [read_unit(dataset, unit, with_lung=True) for unit in list_units(dataset, split)]
        ids = np.concatenate([each.image_ids for each in films])
        order = np.argsort(ids)
        self.ids = ids[order].tolist()
        self.labels = np.concatenate([each.labels for each in films])[order]
        images, self.truth, self.lungs = (
            np.concatenate([getattr(each, name) for each in films])[order]
            for name in ("images_NHW", "masks_NHW", "lungs_NHW")
        )
        self.truth, self.lungs = self.truth > 0, self.lungs > 0
        self.classes, self.probabilities = BatchPredictor(model).predict_probabilities(images)
        self.found = self.classes == model.spec.infection


def test_lung_metrics_calibration_and_free_response_are_those_of_all_films(
    model: Bundle, phantoms: str, found: Evaluation
) -> None:
    seen = Seen(model, phantoms, "train")
    assert list(found.image_ids) == seen.ids
    lungs = seen.found | (seen.classes == 1)
    overlap, union = ((op(lungs, seen.lungs)).sum(axis=(1, 2)) for op in (np.logical_and, np.logical_or))
    assert found.metrics["lung_iou"].value == pytest.approx(np.mean(overlap / union))
    assert found.metrics["lung_iou_pooled"].value == pytest.approx(overlap.sum() / union.sum())
    shares = [part.sum(axis=(1, 2)) / whole.sum(axis=(1, 2)) for part, whole in
              ((seen.found, lungs), (seen.truth & seen.lungs, seen.lungs))]  # fmt: skip
    assert found.metrics["severity_error"].value == pytest.approx(np.abs(shares[0] - shares[1]).mean())
    assert found.calibration["all"] == calibration(count_levels(seen.probabilities, seen.truth))
    for label in set(seen.labels):
        of = seen.labels == label
        assert found.calibration[label] == calibration(count_levels(seen.probabilities[of], seen.truth[of]))
        assert found.strata["label"][label].images == of.sum()
    assert found.free_response == free_response(mark(seen.probabilities, seen.found, seen.truth))
    assert found.free_response.lesions > 20


def test_every_film_stands_in_one_group_of_each_kind(found: Evaluation) -> None:
    infected = int((found.counts_N4[:, 0] + found.counts_N4[:, 2] > 0).sum())
    films = {group: sum(each.images for each in of.values()) for group, of in found.strata.items()}
    assert films == {"label": 80, "infected_share": infected}
    assert set(found.strata["label"]) == set(found.labels)


@pytest.mark.full
def test_any_division_of_the_work_gives_the_same_evaluation(
    ray_session: None, model: Bundle, phantoms: str, found: Evaluation
) -> None:
    again = evaluate(model, Subset(phantoms, "train"), workers=1, batch_size=64)
    assert (again.metrics, again.strata) == (found.metrics, found.strata)
    assert (again.calibration, again.free_response) == (found.calibration, found.free_response)


def test_the_command_leaves_out_what_the_list_names(
    ray_session: None, model: Bundle, phantoms: str, tmp_path: Path
) -> None:
    save_bundle(str(tmp_path / "bundle"), model)
    seen = Seen(model, phantoms, "val")
    (tmp_path / "list").write_text(f"{seen.ids[3]}  # near-duplicate: of another\n{seen.ids[5]}\n")
    words = ["evaluate", str(tmp_path / "bundle"), phantoms, "--exclude", str(tmp_path / "list")]
    result = CliRunner().invoke(app, [*words, "--json", "--report", str(tmp_path / "report.html")])
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    kept = [place for place in range(20) if place not in (3, 5)]
    found, truth = seen.found[kept], seen.truth[kept]
    assert document["images"] == 18
    assert document["metrics"]["iou_pooled"]["value"] == pytest.approx((found & truth).sum() / (found | truth).sum())
    assert set(document) == {"images", "metrics", "strata", "calibration", "free_response", "expected_iou"}
    assert document["expected_iou"] is None  # the model has no curve
    assert sum(each["images"] for each in document["strata"]["label"].values()) == 18
    assert document["calibration"]["all"]["pixels"] == 18 * 64 * 64
    assert document["free_response"]["films"] == 18
    assert len(document["free_response"]["curve"]) == 21
    page = (tmp_path / "report.html").read_text()
    for text in ("18; 2 left out", "Results by group", "Reliability diagram", "False alarms"):
        assert text in page


def test_a_list_of_the_other_side_is_refused(ray_session: None, model: Bundle, phantoms: str) -> None:
    with pytest.raises(DatasetError, match=r"none of the 20 films are on the list .* data audit --side"):
        evaluate(model, Subset(phantoms, exclude=frozenset({"phantom-7-000000"})))


def test_a_model_on_its_training_films_gets_a_note(model: Bundle, phantoms: str) -> None:
    info = read_info(phantoms)
    learned = TrainedOn(dataset="elsewhere", digest=info.digest, split="train", labels=("Normal",), images=80)
    trained = Bundle(model.spec.model_copy(update={"trained_on": learned, "resize": "letterbox"}), model.state)
    resized = "films were packed with --resize stretch, the model's training films with letterbox"
    assert notes(trained, Subset(phantoms, "val")) == (resized,)
    assert notes(trained, Subset(phantoms, "train")) == (
        resized,
        "the model was trained on these films: expect lower values on others",
    )


@pytest.mark.full
def test_a_model_of_another_size_is_measured_at_the_films_own(ray_session: None, phantoms: str) -> None:
    model = random_model(4, ("background", "infection"), side=96)
    found = evaluate(model, Subset(phantoms))
    assert found.notes == (
        "films are stored at 64 x 64 pixels and the model takes 96 x 96: films are resized for it and masks "
        "resized back",
    )
    predictor, expected = BatchPredictor(model), {}
    for unit in list_units(phantoms, "val"):
        films = read_unit(phantoms, unit)
        for image_id, image_HW, mask_HW in zip(films.image_ids, films.images_NHW, films.masks_NHW, strict=True):
            square_SS, placement = standardise(image_HW, 96)
            marked = restore_mask(predictor.predict(square_SS[None])[0], placement) == 1
            expected[image_id] = [int((marked & (mask_HW > 0)).sum()), int((marked & (mask_HW == 0)).sum())]
    assert dict(zip(found.image_ids, found.counts_N4[:, :2].tolist(), strict=True)) == expected
    assert (found.counts_N4.sum(axis=1) == 64 * 64).all()
    assert "lung_iou" not in found.metrics

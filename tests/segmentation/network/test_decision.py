"""The decision on a pixel against NumPy by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from near_ties import undecided_bundle
from pydantic import ValidationError

from covseg_ray.errors import ModelError
from covseg_ray.radiograph.phantom import make_phantom
from covseg_ray.segmentation.inference.predictor import BatchPredictor
from covseg_ray.segmentation.network.bundle import Bundle, BundleSpec
from covseg_ray.segmentation.network.bundle_files import from_files, to_files
from covseg_ray.segmentation.network.decision import Decide, Rule, remove_small_regions

SIZE = 64
LOGITS = torch.from_numpy(np.random.default_rng(2).normal(size=(2, 3, 6, 5)).astype(np.float32))


class Given(torch.nn.Module):
    """A network that answers the same logits, turned round with its film."""

    def forward(self, films_NCHW: torch.Tensor) -> torch.Tensor:
        return LOGITS if films_NCHW[0, 0, 0, 0] == 0 else LOGITS.flip(1)


FILMS = torch.arange(5.0).expand(2, 3, 6, 5)  # the mirror image begins with 4
SOFTMAX = np.exp(LOGITS.numpy()) / np.exp(LOGITS.numpy()).sum(1, keepdims=True)


@pytest.fixture(scope="module")
def films() -> np.ndarray:
    return np.stack([make_phantom(5, index, SIZE).image for index in range(6)])


@pytest.fixture(scope="module")
def bundle(films: np.ndarray) -> Bundle:
    return undecided_bundle(films)


def decided(rule: Rule | str) -> np.ndarray:
    return Decide(Given(), rule, 3, 2)(FILMS).numpy()


def test_without_a_rule_the_most_probable_class():
    found = decided("argmax")
    assert np.array_equal(found[:, 0], LOGITS.numpy().argmax(1))
    assert np.abs(found[:, 1] - 255 * SOFTMAX[:, 2]).max() <= 0.5001


@pytest.mark.parametrize("threshold", [0.1, 0.3, 0.5, 0.6])
def test_from_the_threshold_on_infection_else_the_best_of_the_others(threshold: float):
    expected = np.where(SOFTMAX[:, 2] >= threshold, 2, SOFTMAX[:, :2].argmax(1))
    found = decided(Rule(threshold=threshold))
    assert np.array_equal(found[:, 0], expected)
    assert 0 < (expected == 2).mean() < 1


def test_the_mirror_image_is_averaged_in():
    mirrored = SOFTMAX[:, ::-1, :, ::-1]  # what `Given` says of the mirror image, turned back
    mean = (SOFTMAX + mirrored) / 2
    found = decided(Rule(threshold=0.4, flip=True))
    assert np.array_equal(found[:, 0], np.where(mean[:, 2] >= 0.4, 2, mean[:, :2].argmax(1)))
    assert np.abs(found[:, 1] - 255 * mean[:, 2]).max() <= 0.5001


def test_small_regions_get_the_fallback_class():
    """Regions of 1, 3 (over a corner) and 6 pixels."""
    classes = np.array([[2, 0, 2, 2, 0], [0, 0, 0, 0, 2], [1, 1, 1, 1, 1], [2, 2, 2, 1, 1], [2, 2, 2, 1, 1]], np.uint8)
    left = {}
    for smallest in (0, 1, 2, 3, 4, 7):
        film = classes[None].copy()
        remove_small_regions(film, infection=2, fallback=1, smallest=smallest)
        left[smallest] = int((film == 2).sum())
        assert np.array_equal(film[0][classes != 2], classes[classes != 2])
        assert (film[0][(classes == 2) & (film[0] != 2)] == 1).all()
    assert left == {0: 10, 1: 10, 2: 9, 3: 9, 4: 6, 7: 0}


def test_a_predictor_follows_its_bundles_rule(bundle: Bundle, films: np.ndarray):
    _, probabilities = BatchPredictor(bundle, precision="fp32").predict_probabilities(films)
    ruled = BatchPredictor(bundle.with_rule(Rule(threshold=99.5 / 255, smallest_region=40)), precision="fp32")
    classes, same = ruled.predict_probabilities(films)
    assert np.array_equal(same, probabilities)
    raw = (probabilities >= 100).astype(np.uint8)
    remove_small_regions(raw, 1, 0, 40)
    assert np.array_equal(classes, raw)
    assert np.array_equal(ruled.predict(films), classes)
    assert 0 < classes.mean() < (probabilities >= 100).mean()


def test_a_rule_is_kept_in_the_bundle_and_changes_its_id(bundle: Bundle):
    ruled = bundle.with_rule(Rule(threshold=0.25, smallest_region=9, flip=True))
    again = from_files(to_files(ruled))
    assert again.spec.decision == Rule(threshold=0.25, smallest_region=9, flip=True)
    others = [Rule(threshold=0.25, smallest_region=9), Rule(threshold=0.3, smallest_region=9, flip=True)]
    ids = {each.model_id for each in (bundle, ruled, *map(bundle.with_rule, others))}
    assert len(ids) == 4
    assert again.model_id == ruled.model_id
    assert "at least 0.250. Regions of fewer than 9 pixels" in to_files(ruled)["README.md"].decode()


@pytest.mark.parametrize("rule", [{"threshold": 0}, {"threshold": 1.5}, {"threshold": 0.5, "smallest_region": -1}])
def test_a_rule_that_cannot_be_is_refused(bundle: Bundle, rule: dict[str, float]):
    with pytest.raises(ValidationError):
        Rule.model_validate(rule)
    files = to_files(bundle)
    content = json.loads(files["model.json"]) | {"decision": rule}
    with pytest.raises(ModelError, match=r"model\.json: decision"):
        from_files(files | {"model.json": json.dumps(content).encode()})


def test_removed_infection_becomes_lung_where_the_model_knows_lungs():
    assert (
        BundleSpec(architecture="unet", encoder="resnet18", classes=("background", "lung", "infection")).fallback_class
        == 1
    )
    assert BundleSpec(architecture="unet", encoder="resnet18").fallback_class == 0


def test_half_precision_is_half_as_large_and_sees_the_same(bundle: Bundle, films: np.ndarray):
    halved = from_files(to_files(bundle.half_precision()))
    sizes = [len(to_files(each)["model.safetensors"]) for each in (bundle, halved)]
    assert sizes[1] < 0.51 * sizes[0]
    assert {parameter.dtype for parameter in halved.network().parameters()} == {torch.float32}
    seen = [
        BatchPredictor(each, precision="fp32").predict_probabilities(films)[1].astype(int) for each in (bundle, halved)
    ]
    assert np.abs(seen[0] - seen[1]).max() <= 2

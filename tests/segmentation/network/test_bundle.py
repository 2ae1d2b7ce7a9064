from __future__ import annotations

import dataclasses
import json
from datetime import datetime, timezone
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load, save

from covseg_ray.errors import ModelError
from covseg_ray.segmentation.estimate import Estimate
from covseg_ray.segmentation.network.build import build_network
from covseg_ray.segmentation.network.bundle import Bundle, BundleSpec, Normalisation, TrainedOn
from covseg_ray.segmentation.network.bundle_files import from_files, to_files

SPEC = BundleSpec(
    architecture="unet",
    encoder="resnet18",
    input_size=64,
    trained_on=TrainedOn(
        dataset="s3://bucket/covid-qu-ex", digest="ab" * 32, split="train", labels=("COVID-19",), images=1864
    ),
    metrics={"iou_pooled": Estimate(0.7131, 0.7012, 0.7254)},
    metrics_how="On the split val, 466 images.",
    created=datetime(2026, 11, 23, tzinfo=timezone.utc),
)


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    torch.manual_seed(0)
    return Bundle(SPEC, build_network("unet", "resnet18").state_dict())


@pytest.fixture(scope="module")
def files(bundle: Bundle) -> dict[str, bytes]:
    return to_files(bundle)


def test_there_and_back(bundle: Bundle, files: dict[str, bytes]):
    assert set(files) == {"model.safetensors", "model.json", "README.md"}
    again = from_files(files)
    assert again.spec == bundle.spec
    assert again.model_id == bundle.model_id
    assert again.state.keys() == bundle.state.keys()
    assert all(torch.equal(again.state[name], tensor) for name, tensor in bundle.state.items())
    assert to_files(again) == files


def test_model_json_holds_what_the_contract_names(files: dict[str, bytes], bundle: Bundle):
    content = json.loads(files["model.json"])
    assert content["model_id"] == bundle.model_id
    assert content["classes"] == ["background", "infection"]
    assert content["normalisation"]["mean"] == [0.485, 0.456, 0.406]
    assert content["trained_on"]["images"] == 1864
    assert content["metrics"] == {"iou_pooled": {"value": 0.7131, "low": 0.7012, "high": 0.7254}}


def test_model_id_changes_with_weights_and_with_what_changes_a_mask_only(bundle: Bundle):
    assert len(bundle.model_id) == 16
    int(bundle.model_id, 16)
    changed = {name: tensor.clone() for name, tensor in bundle.state.items()}
    changed["segmentation_head.0.bias"][0] += 1e-3
    other_weights = Bundle(SPEC, changed)
    other_size = Bundle(SPEC.model_copy(update={"input_size": 96}), bundle.state)
    other_mean = Bundle(SPEC.model_copy(update={"normalisation": Normalisation(mean=(0, 0, 0))}), bundle.state)
    assert len({each.model_id for each in (bundle, other_weights, other_size, other_mean)}) == 4
    assert Bundle(SPEC.model_copy(update={"metrics": {}, "trained_on": None}), bundle.state).model_id == bundle.model_id


def test_model_id_does_not_depend_on_memory_layout(bundle: Bundle):
    laid_out = {
        name: tensor.contiguous(memory_format=torch.channels_last) if tensor.ndim == 4 else tensor
        for name, tensor in bundle.state.items()
    }
    assert Bundle(SPEC, laid_out).model_id == bundle.model_id


def test_card_tells_what_a_reader_needs(files: dict[str, bytes], bundle: Bundle):
    card = files["README.md"].decode()
    assert "Not a medical device" in card
    assert bundle.model_id in card
    assert "| `iou_pooled` | 0.7131 | 0.7012 to 0.7254 |" in card
    assert "1,864 images (COVID-19)" in card
    assert "teachers" not in card
    seen = bundle.spec.trained_on.model_copy(update={"teachers": ("0a" * 8, "1b" * 8)})
    taught = Bundle(bundle.spec.model_copy(update={"trained_on": seen}), bundle.state)
    assert f"its teachers give: `{'0a' * 8}`, `{'1b' * 8}`." in to_files(taught)["README.md"].decode()
    assert json.loads(to_files(taught)["model.json"])["trained_on"]["teachers"] == ["0a" * 8, "1b" * 8]
    assert taught.model_id == bundle.model_id
    bare = Bundle(SPEC.model_copy(update={"metrics": {}, "trained_on": None}), bundle.state)
    bare_card = to_files(bare)["README.md"].decode()
    assert "Not measured." in bare_card
    assert "Not recorded." in bare_card


def _json(files: dict[str, bytes], **changes: object) -> dict[str, bytes]:
    return files | {"model.json": json.dumps(json.loads(files["model.json"]) | changes).encode()}


def _weights(files: dict[str, bytes], drop: str = "", **extra: torch.Tensor) -> dict[str, bytes]:
    state = {name: tensor for name, tensor in load(files["model.safetensors"]).items() if name != drop}
    return files | {"model.safetensors": save(state | extra)}


BAD = {
    "pickle beside": (lambda f: f | {"pytorch_model.bin": b""}, r"pytorch_model\.bin can run code"),
    "pickle below": (lambda f: f | {"extra/x.PKL": b""}, r"extra/x\.PKL can run code"),
    "no weights": (lambda f: {"model.json": f["model.json"]}, r"model\.safetensors is missing"),
    "no spec": (lambda f: {"model.safetensors": f["model.safetensors"]}, r"model\.json is missing"),
    "cut weights": (lambda f: f | {"model.safetensors": f["model.safetensors"][:-10]}, "not a whole safetensors file"),
    "pickle as weights": (lambda f: f | {"model.safetensors": b"\x80\x04K\x01."}, "not a whole safetensors file"),
    "no json": (lambda f: f | {"model.json": b"<html>"}, "not a JSON object"),
    "json list": (lambda f: f | {"model.json": b"[1]"}, "not a JSON object"),
    "bytes": (lambda f: f | {"model.json": b"\xff\xfe\x00"}, "not a JSON object"),
    "architecture": (lambda f: _json(f, architecture="unett"), "unknown name 'unett'"),
    "remote encoder": (lambda f: _json(f, encoder="tu-hf-hub:a/b"), "unknown name 'tu-hf-hub:a/b'"),
    "other encoder": (lambda f: _json(f, encoder="resnet34"), "lacks tensor"),
    "other size": (lambda f: _json(f, input_size=96), "says model_id"),
    "unknown key": (lambda f: _json(f, code="import os"), r"model\.json: code: Extra inputs"),
    "bad size": (lambda f: _json(f, input_size=10**9), r"model\.json: input_size"),
    "next version": (lambda f: _json(f, schema_version=2), r"model\.json: schema_version"),
    "tensor gone": (lambda f: _weights(f, drop="encoder.conv1.weight"), r"lacks tensor 'encoder\.conv1\.weight'"),
    "tensor more": (lambda f: _weights(f, more=torch.zeros(1)), "has an unknown tensor 'more'"),
    "tensor shape": (
        lambda f: _weights(f, **{"segmentation_head.0.bias": torch.zeros(3)}),
        r"has a misfit tensor 'segmentation_head\.0\.bias'",
    ),
    "tensor changed": (lambda f: _weights(f, **{"segmentation_head.0.bias": torch.ones(2)}), "says model_id"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bundle_that_cannot_be_trusted_is_refused_in_one_line(case: str, files: dict[str, bytes]):
    spoil, message = BAD[case]
    with pytest.raises(ModelError, match=message) as caught:
        from_files(spoil(files))
    assert "\n" not in str(caught.value)


def test_exports_and_strangers_beside_the_model_are_left_unread(files: dict[str, bytes], bundle: Bundle):
    beside = {"openvino/model.bin": b"", "openvino/model.xml": b"", "model.onnx": b"", ".DS_Store": b"x"}
    assert from_files(files | beside).model_id == bundle.model_id


def test_spec_needs_the_class_infection_once():
    assert (
        BundleSpec(architecture="unet", encoder="resnet18", classes=("background", "lung", "infection")).infection == 2
    )
    for classes in (("background", "lung"), ("infection", "infection")):
        with pytest.raises(ValidationError):
            BundleSpec(architecture="unet", encoder="resnet18", classes=classes)


def test_spec_and_bundle_cannot_be_changed(bundle: Bundle):
    with pytest.raises(ValidationError):
        bundle.spec.input_size = 32
    with pytest.raises(dataclasses.FrozenInstanceError):
        bundle.state = {}


def test_building_the_network_leaves_the_random_state_alone(bundle: Bundle):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    bundle.network()
    assert torch.equal(torch.rand(3), expected)


def test_a_bundle_survives_a_folder(files: dict[str, bytes], tmp_path: Path, bundle: Bundle):
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    assert from_files({path.name: path.read_bytes() for path in tmp_path.iterdir()}).model_id == bundle.model_id

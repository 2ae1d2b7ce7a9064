from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from covseg_ray.cli.main import app
from covseg_ray.engine.bundle_io import save_bundle
from covseg_ray.errors import ModelError, StorageError
from covseg_ray.segmentation.estimate import Estimate
from covseg_ray.segmentation.network.build import build_network
from covseg_ray.segmentation.network.bundle import Bundle, BundleSpec, TrainedOn


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> tuple[Bundle, str]:
    torch.manual_seed(0)
    network = build_network("unet", "resnet18", None, 2)
    spec = BundleSpec(
        architecture="unet",
        encoder="resnet18",
        input_size=64,
        trained_on=TrainedOn(
            dataset="s3://films/[a]set", digest="3fa94bd0", split="train", labels=("COVID-19",), images=1864
        ),
        metrics={"iou_pooled": Estimate(0.7134, 0.69, 0.7351)},
    )
    made = Bundle(spec, network.state_dict())
    uri = str(tmp_path_factory.mktemp("bundle"))
    save_bundle(uri, made)
    return made, uri


def info(*arguments: str) -> str:
    done = CliRunner().invoke(app, ["model", "info", *arguments], catch_exceptions=False)
    assert done.exit_code == 0
    return done.stdout


def test_json_counts_every_trainable_parameter(bundle: tuple[Bundle, str]) -> None:
    made, uri = bundle
    document = json.loads(info(uri, "--json"))
    parameters = sum(p.numel() for p in build_network("unet", "resnet18", None, 2).parameters())
    assert document["parameters"] == parameters
    assert document["model_id"] == made.model_id
    assert document["metrics"]["iou_pooled"] == {"value": 0.7134, "low": 0.69, "high": 0.7351}


def test_the_tables_say_what_it_is_what_it_saw_and_what_it_reached(
    bundle: tuple[Bundle, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    made, uri = bundle
    parameters = sum(p.numel() for p in made.network().parameters())
    text = info(uri)
    for part in (
        made.model_id,
        "unet with resnet18",
        "1,864 films (COVID-19), split train of s3://films/[a]set",
        "0.7134",
        "0.6900 to 0.7351",
        f"{parameters:,} trainable",
    ):
        assert part in text


@pytest.mark.parametrize(("curve", "words"), [((), "none"), (((0.2, 0.1), (0.9, 0.8)), "by a curve of 2 points")])
def test_it_says_whether_there_is_a_curve_of_the_expected_iou(
    bundle: tuple[Bundle, str], curve: tuple[tuple[float, float], ...], words: str, tmp_path: Path
) -> None:
    made, _ = bundle
    save_bundle(str(tmp_path), Bundle(made.spec.model_copy(update={"expected_iou": curve}), made.state))
    (line,) = (line for line in info(str(tmp_path)).splitlines() if "Expected IoU" in line)
    assert words in line


def test_a_bundle_that_is_absent_or_holds_a_pickle_is_refused(bundle: tuple[Bundle, str], tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="absent"):
        info(str(tmp_path / "absent"))
    made, _ = bundle
    save_bundle(str(tmp_path), made)
    (tmp_path / "model.pkl").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    with pytest.raises(ModelError, match="pkl"):
        info(str(tmp_path))

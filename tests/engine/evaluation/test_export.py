"""A model written for other engines, run by those engines alone, and in 8-bit integers behind its gate."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
from random_models import WITH_LUNGS, random_model
from typer.testing import CliRunner, Result

from covseg_ray.cli.main import app
from covseg_ray.engine.bundle_io import load_bundle, save_bundle
from covseg_ray.engine.evaluation.export import calibration_films
from covseg_ray.errors import CovsegError, ModelError, UsageError
from covseg_ray.segmentation.inference.predictor import BatchPredictor
from covseg_ray.segmentation.network.bundle import Bundle
from covseg_ray.segmentation.network.decision import Rule
from covseg_ray.storage.datasets.pack import synthesise
from covseg_ray.storage.datasets.read import list_units, read_unit

SIDE = 64


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> str:
    uri = str(tmp_path_factory.mktemp("export") / "films")
    synthesise(uri, 40, seed=3, size=SIDE)
    return uri


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> str:
    uri = str(tmp_path_factory.mktemp("export") / "bundle")
    save_bundle(uri, random_model(4, WITH_LUNGS, SIDE, Rule(threshold=0.4)))
    return uri


def need(*packages: str) -> None:
    for package in packages:
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")


def run(*words: str) -> Result:
    return CliRunner().invoke(app, ["model", "export", *words])


def pooled_iou(bundle: Bundle, dataset: str) -> float:
    """Of split val, by hand."""
    predictor, both, either = BatchPredictor(bundle), 0, 0
    for unit in list_units(dataset, "val"):
        films = read_unit(dataset, unit)
        found_NHW, truth_NHW = predictor.predict(films.images_NHW) == bundle.spec.infection, films.masks_NHW > 0
        both, either = both + int((found_NHW & truth_NHW).sum()), either + int((found_NHW | truth_NHW).sum())
    return both / either


def agreements(bundle: Bundle, dataset: str) -> list[float]:
    """Of each film of split val, by hand."""
    films_NHW = val_films(dataset)
    found, smooth = [], films_NHW[0].size / 1000
    for classes_HW, levels_HW in zip(*BatchPredictor(bundle).predict_probabilities(films_NHW), strict=True):
        p_HW, found_HW = levels_HW / 255, classes_HW == bundle.spec.infection
        found.append((p_HW[found_HW].sum() + smooth) / (found_HW.sum() + p_HW[~found_HW].sum() + smooth))
    return found


def val_films(dataset: str) -> np.ndarray:
    return np.concatenate([read_unit(dataset, unit).images_NHW for unit in list_units(dataset, "val")])


def in_fp32(bundle: str, films_NHW: np.ndarray) -> np.ndarray:
    return BatchPredictor(load_bundle(bundle), precision="fp32").predict(films_NHW)


@pytest.mark.full
def test_the_onnx_file_alone_gives_the_models_classes(bundle: str, films: str, tmp_path: Path) -> None:
    need("onnx", "onnxscript", "onnxruntime")
    import onnxruntime

    done = run(bundle, "--to", "onnx", "--out", str(tmp_path), "--calibrate", films, "--json")
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert report["before"] == pytest.approx(pooled_iou(load_bundle(bundle), films), abs=1e-9)
    assert report["after"] == pytest.approx(report["before"], abs=0.002)
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"))
    films_NHW = val_films(films)
    name = session.get_inputs()[0].name
    given_N2HW = np.concatenate([session.run(None, {name: film_HW[None]})[0] for film_HW in films_NHW])
    assert (given_N2HW[:, 0] != in_fp32(bundle, films_NHW)).mean() < 1e-4


def test_the_openvino_files_alone_give_the_models_classes(bundle: str, films: str, tmp_path: Path) -> None:
    need("openvino")
    done = run(bundle, "--to", "openvino", "--out", str(tmp_path))
    assert done.exit_code == 0, done.output
    assert "not compared" in done.output
    import openvino

    settings = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino.Core().compile_model(str(tmp_path / "openvino/model.xml"), "CPU", settings)
    films_NHW = val_films(films)
    given_N2HW = np.concatenate([compiled(film_HW[None])[0] for film_HW in films_NHW])
    assert (given_N2HW[:, 0] != in_fp32(bundle, films_NHW)).mean() < 1e-4


def test_files_are_written_beside_the_bundles_and_leave_it_as_it_is(films: str, tmp_path: Path) -> None:
    need("openvino")
    uri = str(tmp_path / "bundle")
    save_bundle(uri, random_model(4, WITH_LUNGS, SIDE))
    before = load_bundle(uri).model_id
    assert run(uri, "--to", "openvino").exit_code == 0
    assert sorted(file.name for file in Path(uri, "openvino").iterdir()) == ["model.bin", "model.xml"]
    assert load_bundle(uri).model_id == before


@pytest.fixture(scope="module")
def int8(bundle: str, films: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The model in 8-bit integers, its gate opened wide: random weights lose more than a trained model's."""
    need("openvino", "nncf")
    from covseg_ray.segmentation.inference.quantise import quantise

    made = quantise(load_bundle(bundle), calibration_films(load_bundle(bundle), films), "a-digest")
    uri = str(tmp_path_factory.mktemp("export") / "int8")
    save_bundle(uri, made)
    return uri


def test_an_8_bit_bundle_is_another_model_and_computes_with_its_own_files(bundle: str, films: str, int8: str) -> None:
    made, before = load_bundle(int8), load_bundle(bundle)
    assert made.model_id != before.model_id
    assert made.spec.int8 is not None
    assert made.spec.int8.made_of == before.model_id
    predictor = BatchPredictor(made)
    assert (predictor.engine, predictor.precision) == ("openvino", "int8")
    films_NHW = val_films(films)
    found_NHW = predictor.predict(films_NHW)
    differing = (found_NHW != in_fp32(bundle, films_NHW)).mean()
    assert 0 < differing < 0.2
    alone_NHW = np.concatenate([predictor.predict(film_HW[None]) for film_HW in films_NHW])
    assert np.array_equal(found_NHW, alone_NHW)
    assert Path(int8, "openvino/int8/model.bin").stat().st_size < 0.35 * sum(
        4 * tensor.numel() for tensor in before.state.values()
    )


def test_an_8_bit_bundle_is_whole_or_refused(int8: str, tmp_path: Path) -> None:
    again = str(tmp_path / "again")
    save_bundle(again, load_bundle(int8))
    assert load_bundle(again).model_id == load_bundle(int8).model_id
    binary = Path(again, "openvino/int8/model.bin")
    data = bytearray(binary.read_bytes())
    data[len(data) // 2] ^= 1
    binary.write_bytes(data)
    with pytest.raises(ModelError, match=r"openvino/int8/model\.bin is missing or damaged"):
        load_bundle(again)
    binary.unlink()
    with pytest.raises(ModelError, match=r"openvino/int8/model\.bin is missing or damaged"):
        load_bundle(again)


def test_an_8_bit_bundle_takes_no_other_engine_and_no_other_rule(int8: str) -> None:
    made = load_bundle(int8)
    with pytest.raises(UsageError, match="this 8-bit model computes with openvino, not with torch"):
        BatchPredictor(made, engine="torch")
    for change in (lambda: made.with_rule(Rule(threshold=0.3)), made.half_precision):
        with pytest.raises(UsageError, match="take the model that it was exported from"):
            change()


@pytest.mark.full
def test_the_gate_measures_both_and_refuses_what_loses(
    bundle: str, films: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    need("openvino", "nncf")
    from covseg_ray.engine.evaluation import export

    out = tmp_path / "int8"
    words = (bundle, "--to", "openvino", "--int8", "--calibrate", films, "--out", str(out), "--json")
    monkeypatch.setattr(export, "GATE", 1.0)
    done = run(*words)
    assert done.exit_code == 0, done.output
    report, made = json.loads(done.stdout), load_bundle(str(out))
    assert report["before"] == pytest.approx(pooled_iou(load_bundle(bundle), films), abs=1e-9)
    assert report["after"] == pytest.approx(pooled_iou(made, films), abs=1e-9)
    assert made.spec.metrics["iou_pooled"].value == report["after"]
    assert report["model_id"] == made.model_id
    np.testing.assert_allclose([at for at, _ in made.spec.expected_iou], sorted(agreements(made, films)), rtol=1e-9)
    lost = report["before"] - report["after"]
    monkeypatch.setattr(export, "GATE", lost - 1e-9)
    refused = run(*words[:-2], str(tmp_path / "refused")).exception
    assert isinstance(refused, CovsegError)
    assert refused.exit_code == 1
    assert str(refused).startswith("export refused: iou_pooled falls from")
    assert not (tmp_path / "refused").exists()


@pytest.mark.parametrize(
    ("words", "report"),
    [
        (["--to", "onnx", "--int8", "--calibrate", "FILMS"], "--int8 requires --to openvino"),
        (["--to", "openvino", "--int8"], "--calibrate DATASET"),
    ],
)
def test_what_cannot_be_exported_is_one_line(bundle: str, words: list[str], report: str) -> None:
    refused = run(bundle, *words).exception
    assert isinstance(refused, UsageError)
    assert report in str(refused)


def test_an_unknown_engine_is_misuse(bundle: str) -> None:
    done = run(bundle, "--to", "tensorrt")
    assert (done.exit_code, "'tensorrt' is not one of 'onnx', 'openvino'" in done.stderr) == (2, True)


def test_a_model_of_the_package_is_exported_to_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    refused = run("covid-qu-ex", "--to", "onnx").exception
    assert isinstance(refused, UsageError)
    assert "covid-qu-ex: a model of the package stays as it is; give --out" in str(refused)
    assert list(tmp_path.iterdir()) == []


def test_ranges_come_from_films_all_over_split_train(bundle: str, films: str) -> None:
    taken_NHW = calibration_films(load_bundle(bundle), films)
    every = np.concatenate([read_unit(films, unit).images_NHW for unit in list_units(films, "train")])
    assert taken_NHW.dtype == np.uint8
    assert sorted(film_HW.tobytes() for film_HW in taken_NHW) == sorted(film_HW.tobytes() for film_HW in every)

"""Every engine against torch and NumPy by hand."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from near_ties import undecided_bundle
from torch import Tensor, nn

from covseg_ray.errors import ConfigError, UsageError
from covseg_ray.radiograph.phantom import make_phantom
from covseg_ray.segmentation.inference.engines import build_forward, require_engine
from covseg_ray.segmentation.inference.predictor import BatchPredictor, engine_of
from covseg_ray.segmentation.network.build import build_network
from covseg_ray.segmentation.network.bundle import Bundle, BundleSpec
from covseg_ray.segmentation.network.precision import autocast_dtype, knows_bf16
from covseg_ray.segmentation.network.preprocess import Preprocess

SIZE = 64
PACKAGES = {"openvino": ["openvino"], "onnx": ["onnx", "onnxscript", "onnxruntime"]}


@pytest.fixture(params=sorted(PACKAGES), scope="module")
def engine(request: pytest.FixtureRequest) -> str:
    """Each engine beside torch."""
    for package in PACKAGES[request.param]:
        _need(package)
    return str(request.param)


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return undecided_bundle(_films())


@pytest.fixture(scope="module")
def predictor(engine: str, bundle: Bundle) -> BatchPredictor:
    return BatchPredictor(bundle, precision="fp32", chunk=4, engine=engine, threads=2)


@pytest.fixture(autouse=True)
def _threads_put_back() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def _need(package: str) -> None:
    """Looked for and not imported, as ``pytest.importorskip`` would: OpenVINO imported here would write home."""
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed")


def _films(count: int = 12) -> np.ndarray:
    return np.stack([make_phantom(5, index, SIZE).image for index in range(count)])


def _by_hand(bundle: Bundle, films: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Torch's classes, and where the two logits differ by more than 1e-3."""
    with torch.inference_mode():
        logits = bundle.network()(Preprocess()(torch.from_numpy(films))).numpy()
    return logits.argmax(1), np.abs(logits[:, 0] - logits[:, 1]) > 1e-3


def test_agrees_with_the_network_called_by_hand(predictor: BatchPredictor, bundle: Bundle):
    """Engines add in different orders: logits were seen to differ by up to 1.5e-5, margins thus by 3e-5.

    5 of these 49,152 pixels are that near to a tie; seen to flip were 1 with OpenVINO, whose logits are
    equal in torch, and none with ONNX Runtime.
    """
    films = _films()
    expected, clear = _by_hand(bundle, films)
    classes = predictor.predict(films)
    assert (classes.dtype, classes.shape) == (np.uint8, films.shape)
    assert clear.mean() > 0.99
    assert np.array_equal(classes[clear], expected[clear])
    assert (classes != expected).mean() < 1e-4
    assert 0.2 < (classes == bundle.spec.infection).mean() < 0.8


def test_a_film_has_the_same_mask_alone_and_among_others(predictor: BatchPredictor):
    films = _films(9)
    alone = np.concatenate([predictor.predict(film[None]) for film in films])
    assert np.array_equal(predictor.predict(films), alone)
    assert np.array_equal(predictor.predict(films[::-1])[::-1], alone)
    assert np.array_equal(predictor.predict(films[2:8]), alone[2:8])
    assert predictor.predict(films[:0]).shape == (0, SIZE, SIZE)


def test_constant_films_are_finite(predictor: BatchPredictor, bundle: Bundle):
    """NaN in the logits would give class 0 everywhere."""
    films = np.stack([np.full((SIZE, SIZE), value, np.uint8) for value in (0, 7, 255)])
    expected, clear = _by_hand(bundle, films)
    classes = predictor.predict(films)
    assert (expected[clear] == 1).any()
    assert np.array_equal(classes[clear], expected[clear])


class _ToGrey(nn.Module):
    def forward(self, channels_NCHW: Tensor) -> Tensor:
        return channels_NCHW[:, 0].round().to(torch.uint8)


def test_preprocessing_against_numpy(engine: str):
    """Films are scaled to [0, 200] by their own darkest and brightest pixel. Halves may round either way."""
    films = np.random.default_rng(1).integers(3, 250, (3, 8, 10), dtype=np.uint8)
    films[1] = films[1] // 2 + 40
    films[2] = 9
    low, high = films.min(axis=(1, 2), keepdims=True), films.max(axis=(1, 2), keepdims=True)
    expected = (films.astype(np.float64) - low) / np.maximum(high.astype(np.float64) - low, 1) * 200
    module = nn.Sequential(Preprocess(mean=(0, 0, 0), std=(1 / 200,) * 3), _ToGrey()).eval()
    grey = build_forward(engine, module, films.shape, 1, "fp32")(films)
    assert grey.dtype == np.uint8
    assert np.abs(grey - expected).max() <= 0.501
    assert (grey[2] == 0).all()


def test_a_tie_goes_to_the_lower_class(engine: str):
    """Classes 1 and 2 have equal weights and beat class 0 everywhere."""
    torch.manual_seed(4)
    state = build_network("unet", "resnet18", classes=3).state_dict()
    for name in ("segmentation_head.0.weight", "segmentation_head.0.bias"):
        state[name][2] = state[name][1]
    state["segmentation_head.0.bias"][0] = -1e6
    spec = BundleSpec(
        architecture="unet", encoder="resnet18", input_size=SIZE, classes=("background", "infection", "lung")
    )
    assert (BatchPredictor(Bundle(spec, state), chunk=2, engine=engine).predict(_films(2)) == 1).all()


def test_threads_change_no_pixel(engine: str, bundle: Bundle, predictor: BatchPredictor):
    films = _films(9)
    with_one = BatchPredictor(bundle, precision="fp32", chunk=4, engine=engine, threads=1)
    assert np.array_equal(with_one.predict(films), predictor.predict(films))


def test_other_precisions_and_devices_are_refused(engine: str, bundle: Bundle, predictor: BatchPredictor):
    assert (predictor.engine, predictor.precision) == (engine, "fp32")
    if engine == "onnx":
        with pytest.raises(ConfigError, match="precision: onnx computes in fp32, not in bf16"):
            BatchPredictor(bundle, precision="bf16", engine=engine)
    with pytest.raises(UsageError, match=f"engine: {engine} computes on a CPU, not on cuda:0"):
        require_engine(engine, "cuda:0")


def test_openvino_in_bf16_is_near_the_network_in_float32(bundle: Bundle):
    """bfloat16 has 8 bits: what it decides otherwise are pixels near to a tie, of which this model has many."""
    _need("openvino")
    if not knows_bf16(torch.device("cpu")):
        pytest.skip("this CPU has no instructions for bf16")
    predictor = BatchPredictor(bundle, precision="bf16", engine="openvino", threads=2)
    assert predictor.precision == "bf16"
    films = _films()
    with torch.inference_mode():
        logits_NCHW = bundle.network()(Preprocess()(torch.from_numpy(films))).numpy()
    margin_NHW = np.abs(logits_NCHW[:, 0] - logits_NCHW[:, 1])
    clear_NHW = margin_NHW > 0.05 * np.abs(logits_NCHW).max()
    found_NHW = predictor.predict(films)
    assert clear_NHW.mean() > 0.1
    assert np.array_equal(found_NHW[clear_NHW], logits_NCHW.argmax(1)[clear_NHW])
    assert (found_NHW != logits_NCHW.argmax(1)).mean() < 0.2


def test_openvinos_precision_is_torchs_where_it_is_not_given(bundle: Bundle):
    _need("openvino")
    dtype = autocast_dtype(torch.device("cpu"), "auto")
    assert BatchPredictor(bundle, engine="openvino").precision == ("fp32" if dtype is None else "bf16")


def test_auto_is_torch_and_threads_are_torchs(bundle: Bundle):
    assert [engine_of(bundle, name) for name in ("auto", "torch")] == ["torch"] * 2
    require_engine("torch", "cuda")
    films = _films(4)
    expected = BatchPredictor(bundle, precision="fp32").predict(films)
    assert np.array_equal(BatchPredictor(bundle, precision="fp32", engine="torch", threads=1).predict(films), expected)
    assert torch.get_num_threads() == 1


def test_an_unknown_engine_is_named_with_the_list(bundle: Bundle):
    with pytest.raises(UsageError, match="engine: unknown 'tensorrt'; choose one of auto, torch, openvino, onnx"):
        BatchPredictor(bundle, engine="tensorrt")


@pytest.mark.parametrize(("name", "package"), [(name, each) for name, all_ in PACKAGES.items() for each in all_])
def test_a_missing_package_names_the_extra(name: str, package: str, bundle: Bundle, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UsageError, match=rf"engine: {name} .*pip install 'covseg-ray\[{name}\]'"):
        BatchPredictor(bundle, engine=name)


def test_the_name_of_an_engine_needs_no_package(bundle: Bundle, monkeypatch: pytest.MonkeyPatch):
    """A cluster's head writes it down, and need not compute with it."""
    monkeypatch.setitem(sys.modules, "openvino", None)
    assert [engine_of(bundle, name) for name in ("auto", "torch", "openvino")] == ["torch", "torch", "openvino"]
    with pytest.raises(UsageError, match="engine: unknown 'tensorrt'"):
        engine_of(bundle, "tensorrt")


SEES_TELEMETRY = """
import sys
from covseg_ray.segmentation.inference.engines import require_engine
require_engine("openvino", "cpu")
print("openvino.tools.ovc" in sys.modules, [name for name in sys.modules if name.startswith("openvino_telemetry.")])
"""


def test_openvino_reports_to_nobody(tmp_path: Path):
    """Its telemetry package is what sends; it also leaves a folder in the home."""
    _need("openvino")
    environment = {**{name: value for name, value in os.environ.items() if name != "CI"}, "HOME": str(tmp_path)}
    code = [sys.executable, "-c", SEES_TELEMETRY]
    done = subprocess.run(code, capture_output=True, text=True, check=False, env=environment)
    assert (done.returncode, done.stdout.split()) == (0, ["True", "[]"]), done.stderr
    assert list(tmp_path.iterdir()) == []

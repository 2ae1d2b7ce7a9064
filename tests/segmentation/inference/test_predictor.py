from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from near_ties import undecided_bundle

from covseg_ray.errors import ConfigError
from covseg_ray.segmentation.inference import predictor as predictor_module
from covseg_ray.segmentation.inference.predictor import BatchPredictor, device_for
from covseg_ray.segmentation.network.bundle import Bundle
from covseg_ray.segmentation.network.graph import Graph
from covseg_ray.segmentation.network.precision import autocast_dtype, knows_bf16
from covseg_ray.segmentation.network.preprocess import Preprocess

SIZE = 64


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return undecided_bundle(_films())


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def _films(count: int = 12) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, SIZE, SIZE), dtype=np.uint8)


def _in_batches(predictor: BatchPredictor, films: np.ndarray, size: int) -> np.ndarray:
    return np.concatenate([predictor.predict(films[start : start + size]) for start in range(0, len(films), size)])


def test_agrees_with_the_network_called_by_hand(bundle: Bundle):
    films = _films(11)
    with torch.inference_mode():
        logits = bundle.network()(Preprocess()(torch.from_numpy(films)))
    classes = BatchPredictor(bundle, precision="fp32").predict(films)
    assert classes.dtype == np.uint8
    clear = ((logits[:, 0] - logits[:, 1]).abs() > 1e-3).numpy()
    assert clear.mean() > 0.9
    assert np.array_equal(classes[clear], logits.argmax(1).numpy()[clear])
    assert 0.2 < (classes == bundle.spec.infection).mean() < 0.8


@pytest.mark.parametrize("count", [1, 2])
def test_weights_are_laid_out_for_the_threads_that_compute(
    bundle: Bundle, count: int, threads: None, monkeypatch: pytest.MonkeyPatch
):
    """oneDNN chooses a layout by them: one for another number costs a sixth of the rate."""
    seen: list[int] = []
    pack = predictor_module.pack_weights

    def seeing(network: torch.nn.Module, shape_NHW: tuple[int, int, int]) -> torch.nn.Module:
        seen.append(torch.get_num_threads())
        return pack(network, shape_NHW)

    monkeypatch.setattr(predictor_module, "pack_weights", seeing)
    torch.set_num_threads(3)
    BatchPredictor(bundle, threads=count).predict(_films(1))
    assert seen == [count] == [torch.get_num_threads()]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_masks_depend_on_neither_batch_nor_neighbours_nor_threads(bundle: Bundle, precision: str, threads: None):
    if precision == "bf16" and not knows_bf16(torch.device("cpu")):
        pytest.skip("this CPU has no instructions for bf16")
    films = _films(13)
    predictor = BatchPredictor(bundle, precision=precision, chunk=4)
    torch.set_num_threads(1)
    expected = predictor.predict(films)
    assert np.array_equal(predictor.predict(films[::-1])[::-1], expected)
    for thread_count, batch in ((1, 1), (1, 7), (2, 3), (2, 13)):
        torch.set_num_threads(thread_count)
        assert np.array_equal(_in_batches(predictor, films, batch), expected), (thread_count, batch)


def test_read_only_films_and_no_films(bundle: Bundle):
    films = _films(2)
    films.setflags(write=False)
    predictor = BatchPredictor(bundle)
    assert predictor.predict(films).shape == (2, SIZE, SIZE)
    assert predictor.predict(films[:0]).shape == (0, SIZE, SIZE)


def test_other_shapes_and_types_are_refused(bundle: Bundle):
    predictor = BatchPredictor(bundle)
    for films in (np.zeros((1, 32, 32), np.uint8), np.zeros((1, SIZE, SIZE), np.float32), np.zeros((SIZE,), np.uint8)):
        with pytest.raises(ValueError, match=r"films must be uint8 \[N, 64, 64\]"):
            predictor.predict(films)


def test_a_black_film_is_answered(bundle: Bundle):
    assert set(np.unique(BatchPredictor(bundle).predict(np.zeros((1, SIZE, SIZE), np.uint8)))) <= {0, 1}


def test_precision_by_name(bundle: Bundle):
    cpu = torch.device("cpu")
    assert autocast_dtype(cpu, "fp32") is None
    assert autocast_dtype(cpu, "bf16") is torch.bfloat16
    assert autocast_dtype(cpu, "auto") in (None, torch.bfloat16)
    with pytest.raises(ConfigError, match="fp16 needs a GPU"):
        BatchPredictor(bundle, precision="fp16")
    with pytest.raises(ConfigError, match="unknown 'bf61'"):
        autocast_dtype(cpu, "bf61")


@pytest.mark.parametrize("engine", ["torch", "openvino"])
def test_bf16_is_refused_where_a_cpu_has_no_instructions_for_it(
    bundle: Bundle, engine: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(predictor_module, "knows_bf16", lambda device: False)
    assert BatchPredictor(bundle, precision="fp32").precision == "fp32"
    with pytest.raises(ConfigError, match="no instructions for bf16; choose auto or fp32"):
        BatchPredictor(bundle, precision="bf16", engine=engine)


def test_a_cpu_without_avx512_knows_no_bf16():
    flags = set(Path("/proc/cpuinfo").read_text().split())
    expected = {"avx512bw", "avx512vl", "avx512dq"} <= flags or "avx_ne_convert" in flags
    assert knows_bf16(torch.device("cpu")) == expected


def test_a_gpu_is_for_torch_alone(bundle: Bundle):
    on_a_gpu = {engine: device_for(bundle, engine, True) for engine in ("auto", "torch", "openvino", "onnx")}
    assert on_a_gpu == {"auto": "cuda", "torch": "cuda", "openvino": "cpu", "onnx": "cpu"}
    assert device_for(bundle, "torch", False) == "cpu"
    in_8_bits = Bundle(bundle.spec, {}, Graph("openvino", {}))
    assert device_for(in_8_bits, "auto", True) == "cpu"

"""The captured model against the same network called by torch, on the GPU and on the CPU. Skipped without a GPU."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from near_ties import undecided_bundle

from covseg_ray.segmentation.inference.batchnorm_folding import prepare
from covseg_ray.segmentation.inference.predictor import BatchPredictor, films_to_classes
from covseg_ray.segmentation.network.build import channels_last
from covseg_ray.segmentation.network.bundle import Bundle
from covseg_ray.segmentation.network.precision import autocast, autocast_dtype
from covseg_ray.segmentation.network.preprocess import Preprocess

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
FILMS = np.random.default_rng(0).integers(0, 256, (45, 64, 64), dtype=np.uint8)


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return undecided_bundle(FILMS[:12])


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_the_captured_model_gives_what_torch_gives_chunk_by_chunk(bundle: Bundle, precision: str) -> None:
    device = torch.device("cuda", 0)
    classes, probabilities = BatchPredictor(bundle, "cuda", precision, chunk=16).predict_probabilities(FILMS)
    network = prepare(bundle.network(), 64, autocast_dtype(device, precision) or torch.float32)
    module = channels_last(films_to_classes(bundle, network).to(device))
    for start in range(0, 32, 16):
        with torch.inference_mode(), autocast(device, precision):
            found_N2HW = module(torch.from_numpy(FILMS[start : start + 16]).to(device)).cpu().numpy()
        same = classes[start : start + 16] == found_N2HW[:, 0]
        assert same.mean() > 0.999  # cuDNN may choose another kernel for a capture
        difference = np.abs(probabilities[start : start + 16].astype(int) - found_N2HW[:, 1])
        assert difference.max() <= (2 if precision == "fp32" else 8)


def test_films_that_are_clear_are_as_on_a_cpu(bundle: Bundle) -> None:
    with torch.inference_mode():
        logits_NCHW = bundle.network()(Preprocess()(torch.from_numpy(FILMS)))
    clear_NHW = ((logits_NCHW[:, 0] - logits_NCHW[:, 1]).abs() > 0.05 * logits_NCHW.abs().max()).numpy()
    found_NHW = BatchPredictor(bundle, "cuda").predict(FILMS)
    assert clear_NHW.mean() > 0.1
    np.testing.assert_array_equal(found_NHW[clear_NHW], logits_NCHW.argmax(1).numpy()[clear_NHW])


@pytest.mark.parametrize("count", [0, 1, 16, 17, 45])
def test_masks_depend_on_neither_batch_nor_neighbours(bundle: Bundle, count: int) -> None:
    predictor = BatchPredictor(bundle, "cuda", chunk=16)
    expected = np.concatenate([predictor.predict(FILMS[index : index + 1]) for index in range(len(FILMS))])
    np.testing.assert_array_equal(predictor.predict(FILMS[:count]), expected[:count])
    np.testing.assert_array_equal(predictor.predict_probabilities(FILMS[:count])[0], expected[:count])

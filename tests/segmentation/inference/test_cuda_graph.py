"""A predictor on an engine that has room for two chunks in flight, as `CudaGraphModel` has on a GPU."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import cycle

import numpy as np
import pytest
import torch
from near_ties import undecided_bundle
from numpy.typing import NDArray

from covseg_ray.segmentation.inference.batchnorm_folding import prepare
from covseg_ray.segmentation.inference.packed_weights import has_onednn_layouts, pack_weights
from covseg_ray.segmentation.inference.predictor import BatchPredictor, films_to_classes
from covseg_ray.segmentation.network.bundle import Bundle


class TwoChunks:
    """Computes on the CPU what `CudaGraphModel` computes on a GPU, and holds two chunks and no more."""

    def __init__(self, bundle: Bundle) -> None:
        network = prepare(bundle.network(), 64, torch.float32, fuse_decoder=has_onednn_layouts())
        self.module = films_to_classes(bundle, pack_weights(network, (4, 64, 64)))
        self.slots: cycle[list[NDArray[np.uint8]]] = cycle([[], []])
        self.most = self.in_flight = 0

    def start(self, films_NHW: NDArray[np.uint8], outputs: int) -> Callable[[], NDArray[np.uint8]]:
        self.in_flight += 1
        self.most = max(self.most, self.in_flight)
        output_N2HW = self.module(torch.from_numpy(films_NHW)).numpy()
        slot = next(self.slots)
        slot[:] = output_N2HW[:, 0], output_N2HW[:, 1]

        def wait() -> NDArray[np.uint8]:
            self.in_flight -= 1
            return np.stack(slot[:outputs], axis=1)

        return wait


@pytest.mark.parametrize("films", [0, 1, 4, 5, 19])
def test_chunks_in_flight_give_each_film_its_own_mask(films: int) -> None:
    films_NSS = np.random.default_rng(1).integers(0, 256, (films, 64, 64), dtype=np.uint8)
    bundle = undecided_bundle(np.random.default_rng(0).integers(0, 256, (12, 64, 64), dtype=np.uint8))
    spec = bundle.spec.model_copy(update={"expected_iou": ((0.0, 0.0), (1.0, 1.0))})
    predictor = BatchPredictor(replace(bundle, spec=spec), precision="fp32", chunk=4)
    expected, probabilities = predictor.predict_probabilities(films_NSS)
    _, expected_ious = predictor.predict_with_expected_iou(films_NSS)
    twin = TwoChunks(bundle)
    predictor._start = twin.start
    np.testing.assert_array_equal(predictor.predict(films_NSS), expected)
    found = predictor.predict_probabilities(films_NSS)
    np.testing.assert_array_equal(found[0], expected)
    np.testing.assert_array_equal(found[1], probabilities)
    found_NHW, found_ious = predictor.predict_with_expected_iou(films_NSS)
    np.testing.assert_array_equal(found_NHW, expected)
    assert list(found_ious) == list(expected_ious)
    assert (twin.in_flight, twin.most) == (0, min(2, -(-films // 4)))

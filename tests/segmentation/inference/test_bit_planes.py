"""Bit planes against NumPy's own packing, and a predictor on an engine that has room for two chunks, as a GPU has."""

from __future__ import annotations

from collections.abc import Callable
from itertools import cycle

import numpy as np
import pytest
import torch
from near_ties import undecided_bundle
from numpy.typing import NDArray

from covseg_ray.segmentation.inference.batchnorm_folding import lean
from covseg_ray.segmentation.inference.bit_planes import bits, pack, unpack
from covseg_ray.segmentation.inference.packed_weights import has_layouts, prepack
from covseg_ray.segmentation.inference.predictor import Predictor, films_to_classes
from covseg_ray.segmentation.network.bundle import Bundle


@pytest.mark.parametrize(("classes", "planes"), [(2, 1), (3, 2), (4, 2), (5, 3), (9, 4)])
def test_planes_are_numpys_packed_bits_and_lead_back(classes: int, planes: int) -> None:
    classes_NHW = np.random.default_rng(classes).integers(0, classes, (3, 5, 32), dtype=np.uint8)
    assert bits(classes) == planes
    packed_NPHB = pack(torch.from_numpy(classes_NHW), planes).numpy()
    for plane in range(planes):
        np.testing.assert_array_equal(packed_NPHB[:, plane], np.packbits(classes_NHW >> plane & 1, axis=2))
    np.testing.assert_array_equal(unpack(packed_NPHB), classes_NHW)


class TwoChunks:
    """Computes on the CPU what `Captured` computes on a GPU, by way of bit planes, and holds two chunks and no more."""

    def __init__(self, bundle: Bundle) -> None:
        network = prepack(lean(bundle.network(), 64, torch.float32, joined=has_layouts()), (4, 64, 64))
        self.module, self.planes = films_to_classes(bundle, network), bits(len(bundle.spec.classes))
        self.slots: cycle[list[NDArray[np.uint8]]] = cycle([[], []])
        self.most = self.under_way = 0

    def begin(self, films_NHW: NDArray[np.uint8], outputs: int) -> Callable[[], NDArray[np.uint8]]:
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        found_N2HW = self.module(torch.from_numpy(films_NHW))
        slot = next(self.slots)
        slot[:] = pack(found_N2HW[:, 0], self.planes).numpy(), found_N2HW[:, 1].numpy()

        def finish() -> NDArray[np.uint8]:
            self.under_way -= 1
            return np.stack([unpack(slot[0]), slot[1]][:outputs], axis=1)

        return finish


@pytest.mark.parametrize("films", [0, 1, 4, 5, 19])
def test_chunks_under_way_give_each_film_its_own_mask(films: int) -> None:
    films_NSS = np.random.default_rng(1).integers(0, 256, (films, 64, 64), dtype=np.uint8)
    bundle = undecided_bundle(np.random.default_rng(0).integers(0, 256, (12, 64, 64), dtype=np.uint8))
    plain = Predictor(bundle, precision="fp32", chunk=4)
    expected, probabilities = plain.look(films_NSS)
    twin = TwoChunks(bundle)
    plain._begin = twin.begin
    np.testing.assert_array_equal(plain.predict(films_NSS), expected)
    looked = plain.look(films_NSS)
    np.testing.assert_array_equal(looked[0], expected)
    np.testing.assert_array_equal(looked[1], probabilities)
    assert (twin.under_way, twin.most) == (0, min(2, -(-films // 4)))

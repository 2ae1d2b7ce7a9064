"""Models on films in memory, timed in a process of their own: the upper bound of what a machine can do with them."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from covseg_ray.engine.bundle_io import load_bundle
from covseg_ray.engine.session import cores
from covseg_ray.radiograph.phantom import make_phantom
from covseg_ray.segmentation.inference.predictor import local_device, local_predictor
from covseg_ray.segmentation.network.preprocess import Preprocess

PHANTOMS = 16
PLAIN_BATCH = 8
PLAIN_SHARE = 4  # a plain script is slow: a quarter of the films is enough

Predict = Callable[[NDArray[np.uint8]], object]


class Models:
    """Models by name, each on so many ``films``, with all of this process's cores."""

    def __init__(self, films: int) -> None:
        self.count = films
        self.predicts: dict[str, tuple[Predict, NDArray[np.uint8]]] = {}

    def add(self, name: str, uri: str, engine: str = "auto", precision: str = "auto") -> None:
        """Load a bundle and predict one chunk. Raises UsageError where its engine is not available here."""
        predictor = local_predictor(load_bundle(uri), engine, precision, cores())
        films_NSS = films_in_memory(self.count, predictor.spec.input_size)
        predictor.predict(films_NSS[: predictor.chunk])
        self.predicts[name] = (predictor.predict, films_NSS)

    def add_plain(self, name: str, uri: str) -> None:
        """The same network as a plain script calls it: eager, fp32, channels first."""
        bundle = load_bundle(uri)
        network, preprocess = bundle.network().to(local_device()), Preprocess().to(local_device())

        @torch.no_grad()
        def predict(films_NSS: NDArray[np.uint8]) -> None:
            for part_NSS in torch.from_numpy(films_NSS).split(PLAIN_BATCH):
                network(preprocess(part_NSS.to(local_device())).contiguous()).argmax(1).cpu()

        films_NSS = films_in_memory(max(PLAIN_BATCH, self.count // PLAIN_SHARE), bundle.spec.input_size)
        predict(films_NSS[:1])
        self.predicts[name] = (predict, films_NSS)

    def rate(self, name: str) -> float:
        """Films a second, all of them one after the other."""
        predict, films_NSS = self.predicts[name]
        begin = time.perf_counter()
        predict(films_NSS)
        return len(films_NSS) / (time.perf_counter() - begin)


def films_in_memory(count: int, side: int) -> NDArray[np.uint8]:
    """uint8 ``[count, side, side]`` of a few phantoms, again and again."""
    few_NSS = np.stack([make_phantom(0, index, side).image for index in range(min(count, PHANTOMS))])
    return np.resize(few_NSS, (count, side, side))

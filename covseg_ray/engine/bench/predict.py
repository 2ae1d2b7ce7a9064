"""Films a second of models on films in memory, the upper bound of what a machine can do with them: every engine that is
installed, over a plain script's torch."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from covseg_ray.engine.bench.processes import in_process
from covseg_ray.engine.bench.rounds import Bench, Rate, Say, in_turn, machine
from covseg_ray.engine.bundle_io import load_bundle
from covseg_ray.engine.session import KEEP_MEMORY, cores
from covseg_ray.errors import UsageError
from covseg_ray.radiograph.phantom import make_phantom
from covseg_ray.segmentation.inference.predictor import engine_of, local_device, local_predictor
from covseg_ray.segmentation.network.preprocess import Preprocess

PLAIN = "a plain script"
WAYS = {
    "cpu": (("torch", "fp32"), ("torch", "bf16"), ("openvino", "fp32"), ("openvino", "bf16"), ("onnx", "fp32")),
    "cuda": (("torch", "fp32"), ("torch", "bf16"), ("torch", "fp16")),
}
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


def bench_predict(uris: Sequence[str], films: int, rounds: int, say: Say) -> Bench:
    """Every bundle on every engine, with the allocator's settings of Ray's workers; the first one's network as a script
    without this package would call it, in a process of its own."""
    bundles = {uri: load_bundle(uri) for uri in uris}
    with in_process(Models, films, variables={}) as plain, in_process(Models, films, variables=KEEP_MEMORY) as ours:
        plain("add_plain", PLAIN, uris[0])
        measured: dict[str, Callable[[], float]] = {PLAIN: partial(plain, "rate", PLAIN)}
        missing: dict[str, str] = {}
        for uri, bundle in bundles.items():
            for engine, precision in (("auto", "auto"),) if bundle.graph else WAYS[local_device()]:
                way = "openvino int8" if bundle.graph else f"{engine} {precision}"
                name = f"{uri}: {way}" if len(bundles) > 1 else way
                try:
                    ours("add", name, uri, engine, precision)
                    measured[name] = partial(ours, "rate", name)
                except UsageError as error:
                    missing[name] = f"not here: {error}"
        found = in_turn(rounds, measured, say)
    rates = [Rate(name, found.get(name, ()), missing.get(name, "")) for name in (*measured, *missing) if name != PLAIN]
    against = Rate(PLAIN, found[PLAIN], f"eager torch in fp32, channels first, batches of {PLAIN_BATCH}")
    fastest = max((rate for rate in rates if rate.rounds), key=lambda rate: rate.median)
    chosen = engine_of(bundles[uris[0]], "auto")
    advice = (
        f"fastest here: {fastest.name}, {fastest.median / against.median:.1f} times {PLAIN}",
        f"--engine auto stands for {chosen} here: the same on every machine, so that a film has one mask",
    )
    return Bench("predict", "films/s", machine(), against, tuple(rates), advice)

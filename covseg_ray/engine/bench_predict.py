"""How many films a second a model looks at in memory: every engine that is here, over a plain script's torch."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from covseg_ray.engine.bench import Say, device, films_in_memory, in_turn, machine, predicted_per_second
from covseg_ray.engine.bundles import load_bundle
from covseg_ray.errors import UsageError
from covseg_ray.reports.bench import Bench, Rate
from covseg_ray.segmentation.bundle import Bundle
from covseg_ray.segmentation.predictor import Predictor, engine_of
from covseg_ray.segmentation.preprocess import Preprocess

PLAIN = "a plain script"
PLAIN_BATCH = 8
PLAIN_SHARE = 4  # it is slow: a quarter of the films tell its speed
WAYS = {
    "cpu": (("torch", "fp32"), ("torch", "bf16"), ("openvino", "fp32"), ("openvino", "bf16"), ("onnx", "fp32")),
    "cuda": (("torch", "fp32"), ("torch", "bf16"), ("torch", "fp16")),
}


def bench_predict(uris: Sequence[str], films: int, rounds: int, say: Say) -> Bench:
    """Every bundle on every engine, and the first one's network as a script without this package would call it."""
    bundles = {uri: load_bundle(uri) for uri in uris}
    first = next(iter(bundles.values()))
    measured: dict[str, Callable[[], float]] = {PLAIN: partial(plain_per_second, first, films)}
    missing: dict[str, str] = {}
    for uri, bundle in bundles.items():
        for engine, precision in (("auto", "auto"),) if bundle.graph else WAYS[device()]:
            name = _name(uri if len(bundles) > 1 else "", bundle, engine, precision)
            try:
                measured[name] = _measure(bundle, engine, precision, films)
            except UsageError as error:
                missing[name] = f"not here: {error}"
    found = in_turn(rounds, measured, say)
    rates = [Rate(name, found.get(name, ()), missing.get(name, "")) for name in (*measured, *missing) if name != PLAIN]
    note = f"eager torch in fp32, channels first, batches of {PLAIN_BATCH}"
    against = Rate(PLAIN, found[PLAIN], note)
    return Bench("predict", "films/s", machine(), against, tuple(rates), _advice(first, rates, against))


def plain_per_second(bundle: Bundle, films: int) -> float:
    """As one writes it first: weights and films as they come, nothing chosen for the chip."""
    network, preprocess = bundle.network().to(device()), Preprocess().to(device())
    films_NSS = torch.from_numpy(films_in_memory(max(1, films // PLAIN_SHARE), bundle.spec.input_size))
    with torch.no_grad():
        begin = time.perf_counter()
        for part_NSS in films_NSS.split(PLAIN_BATCH):
            network(preprocess(part_NSS.to(device())).contiguous()).argmax(1).cpu()
        return len(films_NSS) / (time.perf_counter() - begin)


def _measure(bundle: Bundle, engine: str, precision: str, films: int) -> Callable[[], float]:
    predictor = Predictor(bundle, device(), precision, engine=engine)
    films_NSS: NDArray[np.uint8] = films_in_memory(films, bundle.spec.input_size)
    predictor.predict(films_NSS[: predictor.chunk])
    return partial(predicted_per_second, predictor, films_NSS)


def _name(prefix: str, bundle: Bundle, engine: str, precision: str) -> str:
    way = "openvino int8" if bundle.graph else f"{engine} {precision}"
    return f"{prefix}: {way}" if prefix else way


def _advice(bundle: Bundle, rates: Sequence[Rate], against: Rate) -> tuple[str, ...]:
    fastest = max((rate for rate in rates if rate.rounds), key=lambda rate: rate.median)
    times = fastest.median / against.median
    chosen = engine_of(bundle, "auto", device())
    return (
        f"fastest here: {fastest.name}, {times:.1f} times {PLAIN}",
        f"--engine auto stands for {chosen} here: the same on every machine, so that a film has one mask",
    )

"""Films a second of a model on films in memory: every engine that is installed, over a plain script's torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from covseg_ray.engine.bench.models import PLAIN_BATCH, Models
from covseg_ray.engine.bench.rounds import Say, in_turn, machine
from covseg_ray.engine.bench.subprocess import in_process
from covseg_ray.engine.bundle_io import load_bundle
from covseg_ray.engine.session import KEEP_MEMORY
from covseg_ray.errors import UsageError
from covseg_ray.reports.bench import Bench, Rate
from covseg_ray.segmentation.inference.predictor import engine_of, local_device

PLAIN = "a plain script"
WAYS = {
    "cpu": (("torch", "fp32"), ("torch", "bf16"), ("openvino", "fp32"), ("openvino", "bf16"), ("onnx", "fp32")),
    "cuda": (("torch", "fp32"), ("torch", "bf16"), ("torch", "fp16")),
}


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

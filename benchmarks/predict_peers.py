"""Films/s of one model in memory: every engine and precision of covseg-ray beside eager torch as a plain script has it.

    python benchmarks/predict_peers.py --model BUNDLE [--int8 BUNDLE] [--rounds 5] [--films 64] [--plain-films 32]

``--int8`` is the same model in 8-bit integers (``covseg-ray model export --to openvino --int8``). The models are loaded
before the first round, covseg-ray's and the plain script's in a process each, and measure alone, in turn.
"""

from __future__ import annotations

import argparse
import sys
import time
from functools import partial
from pathlib import Path

import torch
from rounds import Arm, CannotError, FailedError, Figures, Measured, in_turn

from covseg_ray.engine.bench.predict import Models, films_in_memory
from covseg_ray.engine.bench.processes import Call, in_process
from covseg_ray.engine.session import KEEP_MEMORY
from covseg_ray.errors import CovsegError, UsageError
from covseg_ray.segmentation.inference.engines import ENGINES

sys.path.insert(0, str(Path(__file__).parent / "peers"))
from plain_predict import PlainModel

MEASURE = "films_per_second"
PRECISIONS = ("fp32", "bf16")
BATCHES = (1, 32)
AIM = 8.0


class Plain:
    """The plain script's model and its films."""

    def __init__(self, model: str, films: int) -> None:
        self.model = PlainModel(model)
        self.films_NSS = films_in_memory(films, self.model.spec.input_size)
        self.model.predict(self.films_NSS[:1])

    def rate(self, batch: int) -> float:
        begin = time.perf_counter()
        for part_NSS in torch.from_numpy(self.films_NSS).split(batch):
            self.model.predict(part_NSS.numpy())
        return len(self.films_NSS) / (time.perf_counter() - begin)


def asked(ask: Call, *words: object) -> Figures:
    try:
        return {MEASURE: ask("rate", *words)}
    except CovsegError as error:
        raise FailedError(str(error)) from error


def ready(ask: Call, name: str, *words: str) -> Arm:
    """Measures a model, once it is loaded; says why, round after round, where it cannot compute here."""
    try:
        ask("add", name, *words)
    except UsageError as error:
        reason = str(error)

        def cannot() -> Figures:
            raise CannotError(reason)

        return cannot
    return partial(asked, ask, name)


def engines(ask: Call, given: argparse.Namespace) -> dict[str, Arm]:
    arms = {
        f"{engine} {precision}": ready(ask, f"{engine} {precision}", given.model, engine, precision)
        for engine in ENGINES
        if engine != "auto"
        for precision in PRECISIONS
    }
    arms["auto"] = ready(ask, "auto", given.model)
    if given.int8:
        arms["int8 bundle"] = ready(ask, "int8 bundle", given.int8)
    return arms


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--int8", help="a bundle in 8-bit integers")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--films", type=int, default=64)
    parser.add_argument("--plain-films", type=int, default=32)
    given = parser.parse_args()
    measured = Measured()
    with (
        in_process(Plain, given.model, given.plain_films, variables={}) as theirs,
        in_process(Models, given.films, variables=KEEP_MEMORY) as ours,
    ):
        arms = engines(ours, given)
        plain = {f"plain script, {batch} at once": partial(asked, theirs, batch) for batch in BATCHES}
        in_turn(arms | plain, given.rounds, measured)
    best = measured.best(list(arms), MEASURE)
    for what in plain:
        measured.ratio(best, what, MEASURE, AIM)
    sys.exit(bool(measured.broken))


if __name__ == "__main__":
    main()

"""Films/s of one model in memory: every engine and precision of covseg-ray beside eager torch as a plain script has it.

    python tests/bench/predict_peers.py --model BUNDLE [--int8 BUNDLE] [--rounds 5] [--films 64] [--plain-films 32]

``--int8`` is the same model in 8-bit integers (``covseg-ray model export --to openvino --int8``). All programs are up
with their models loaded before the first round, and each measures alone, in turn.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import IO

from rounds import CannotError, FailedError, Figures, Measured, in_turn, last_line, python

from covseg_ray.engine.runtime import KEEP_MEMORY
from covseg_ray.segmentation.engines import ENGINES

HERE = Path(__file__).parent
MEASURE = "films_per_second"
PRECISIONS = ("fp32", "bf16")
BATCHES = (1, 32)
AIM = 8.0


class Asked:
    """A program that measures once for each line that it gets; ``said`` is a file for its standard error."""

    def __init__(self, words: list[str], environment: dict[str, str], said: IO[str]) -> None:
        pipe, self.said = subprocess.PIPE, said
        self.process = subprocess.Popen(
            words, stdin=pipe, stdout=pipe, stderr=self.said, text=True, env=os.environ | environment
        )

    def __call__(self) -> Figures:
        assert self.process.stdin
        assert self.process.stdout
        try:
            print(file=self.process.stdin, flush=True)
            answer = self.process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if answer:
            found: Figures = json.loads(answer)
            return found
        code = self.process.wait()
        self.said.seek(0)
        word = last_line(self.said.read())
        raise CannotError(word) if code == 2 else FailedError(f"exit {code}: {word}")

    def close(self) -> None:
        self.process.terminate()
        self.process.communicate()


def programs(given: argparse.Namespace) -> dict[str, list[str]]:
    speed, films = HERE / "engine_speed.py", ("--films", given.films)
    found = {
        f"{engine} {precision}": python(speed, given.model, "--engine", engine, "--precision", precision, *films)
        for engine in ENGINES
        if engine != "auto"
        for precision in PRECISIONS
    }
    found["auto"] = python(speed, given.model, *films)
    if given.int8:
        found["int8 bundle"] = python(speed, given.int8, *films)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--int8", help="a bundle in 8-bit integers")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--films", type=int, default=64)
    parser.add_argument("--plain-films", type=int, default=32)
    given = parser.parse_args()
    ours = programs(given)
    script = HERE / "peers/plain_predict.py"
    plain = {
        f"plain script, {batch} at once": python(
            script, given.model, "--films", given.plain_films, "--batch-size", batch
        )
        for batch in BATCHES
    }
    measured = Measured()
    with ExitStack() as stack:
        arms: dict[str, Asked] = {}
        for what, words in (ours | plain).items():
            said = stack.enter_context(tempfile.TemporaryFile("w+"))
            arms[what] = Asked(words, KEEP_MEMORY if what in ours else {}, said)
            stack.callback(arms[what].close)
            measured.attempt(what, arms[what])  # it answers once its model is loaded
        in_turn(arms, given.rounds, measured)
    best = measured.best(list(ours), MEASURE)
    for what in plain:
        measured.ratio(best, what, MEASURE, AIM)
    sys.exit(bool(measured.broken))


if __name__ == "__main__":
    main()

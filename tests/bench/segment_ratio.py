"""Films a second from storage to the result table, over the same model on films in memory with the same cores."""

from __future__ import annotations

import argparse
import json
import os
import secrets
import subprocess
import sys

from covseg_ray.engine.runtime import KEEP_MEMORY

IN_MEMORY = """
import os, sys, time
import numpy as np
from covseg_ray.engine.bundles import load_bundle
from covseg_ray.radiograph.phantom import make_phantom
from covseg_ray.segmentation.predictor import Predictor
model, films, engine = sys.argv[1], int(sys.argv[2]), sys.argv[3]
predictor = Predictor(load_bundle(model), engine=engine, threads=os.cpu_count())
side = predictor.spec.input_size
images_NHW = np.resize(np.stack([make_phantom(0, index, side).image for index in range(16)]), (films, side, side))
predictor.predict(images_NHW[: predictor.chunk])
begin = time.perf_counter()
predictor.predict(images_NHW)
print(films / (time.perf_counter() - begin))
"""


def in_memory(model: str, films: int, engine: str) -> float:
    """Films a second of the predictor alone, with all cores and the allocator's settings of Ray's workers."""
    words = [sys.executable, "-c", IN_MEMORY, model, str(films), engine]
    done = subprocess.run(words, env=os.environ | KEEP_MEMORY, capture_output=True, text=True, check=True)
    return float(done.stdout)


def from_storage(source: str, out: str, model: str, engine: str) -> float:
    words = ["segment", source, out, "--model", model, "--engine", engine, "--json"]
    done = subprocess.run([sys.executable, "-m", "covseg_ray", *words], capture_output=True, text=True, check=False)
    if done.returncode not in (0, 3):
        raise SystemExit(done.stderr)
    return float(json.loads(done.stdout)["films_per_second"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", help="what covseg-ray segment takes")
    parser.add_argument("out", help="folder or s3:// URI; each round writes a new folder below it")
    parser.add_argument("--model", required=True)
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--films", type=int, default=320, help="films in memory")
    given = parser.parse_args()
    for _ in range(given.rounds):
        before = in_memory(given.model, given.films, given.engine)
        storage = from_storage(given.source, f"{given.out}/{secrets.token_hex(4)}", given.model, given.engine)
        after = in_memory(given.model, given.films, given.engine)
        ratio = 2 * storage / (before + after)
        print(json.dumps({"storage": storage, "memory": [before, after], "ratio": ratio}), flush=True)


if __name__ == "__main__":
    main()

"""A model's films/s with one engine and precision of covseg-ray, films in memory.

    python tests/bench/engine_speed.py BUNDLE [--engine auto] [--precision auto] [--threads N] [--films 64]

Measures once for each line on standard input and prints JSON: ``films_per_second``. One that cannot compute here ends
with 2 and says why on standard error.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time

import numpy as np

from covseg_ray.engine.bundles import load_bundle
from covseg_ray.errors import UsageError
from covseg_ray.radiograph.phantom import make_phantom
from covseg_ray.segmentation.predictor import Predictor


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--films", type=int, default=64)
    given = parser.parse_args()
    try:
        predictor = Predictor(
            load_bundle(given.model), precision=given.precision, engine=given.engine, threads=given.threads
        )
    except UsageError as error:
        print(error, file=sys.stderr)
        raise SystemExit(2) from error
    side = predictor.spec.input_size
    films_NSS = np.stack([make_phantom(0, index, side).image for index in range(given.films)])
    predictor.predict(films_NSS[: predictor.chunk])
    for _ in sys.stdin:
        begin = time.perf_counter()
        predictor.predict(films_NSS)
        print(json.dumps({"films_per_second": given.films / (time.perf_counter() - begin)}), flush=True)


if __name__ == "__main__":
    main()

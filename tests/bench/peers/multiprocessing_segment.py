"""A folder of PNG films through a pool of processes, each with the model of covseg-ray on one thread; PNG masks.

    python tests/bench/peers/multiprocessing_segment.py FOLDER OUT --model BUNDLE [--engine auto] [--processes 2]

Prints JSON: ``films_per_second``, the start of the processes and the loading of the model in it.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import time
from pathlib import Path

import numpy as np
from PIL import Image

from covseg_ray.engine.bundles import load_bundle
from covseg_ray.segmentation.predictor import Predictor

AT_ONCE = 16
loaded: list[Predictor] = []


def load(model: str, engine: str) -> None:
    loaded.append(Predictor(load_bundle(model), engine=engine, threads=1))


def outline(words: tuple[Path, Path]) -> None:
    path, out = words
    (predictor,) = loaded
    size = predictor.spec.input_size
    film = Image.open(path).convert("L")
    square_SS = np.asarray(film.resize((size, size), Image.Resampling.BILINEAR))
    mask_SS = predictor.predict(square_SS[None])[0] == predictor.spec.infection
    Image.fromarray(mask_SS).resize(film.size, Image.Resampling.NEAREST).save(out / path.name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("films", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--model", required=True)
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    work = [(path, given.out) for path in sorted(given.films.glob("*.png"))]
    begin = time.perf_counter()
    context = multiprocessing.get_context("spawn")
    with context.Pool(given.processes, load, (given.model, given.engine)) as pool:
        for _ in pool.imap_unordered(outline, work, chunksize=AT_ONCE):
            pass
    print(json.dumps({"films_per_second": len(work) / (time.perf_counter() - begin)}))


if __name__ == "__main__":
    main()

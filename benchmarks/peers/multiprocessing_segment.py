"""A folder of PNG films through a pool of processes, each with the model of covseg-ray on one thread; PNG masks.

    python benchmarks/peers/multiprocessing_segment.py FOLDER OUT --model BUNDLE [--engine auto] [--processes 2]

Prints JSON: ``films_per_second``, the start of the processes and the loading of the model in it.
"""

from __future__ import annotations

import json
import multiprocessing
import time
from pathlib import Path

from film_files import list_films, name_of, pool_words, read_film, read_square, write_mask

from covseg_ray.engine.bundle_io import load_bundle
from covseg_ray.segmentation.inference.predictor import BatchPredictor

AT_ONCE = 16
loaded: list[BatchPredictor] = []


def load(model: str, engine: str) -> None:
    loaded.append(BatchPredictor(load_bundle(model), engine=engine, threads=1))


def segment(words: tuple[str, Path]) -> None:
    film, out = words
    (predictor,) = loaded
    size, square_SS = read_square(read_film(film), predictor.spec.input_size)
    write_mask(predictor.predict(square_SS[None])[0] == predictor.spec.infection, size, out / name_of(film))


def main() -> None:
    given = pool_words(__doc__).parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    work = [(film, given.out) for film in list_films(given.films)]
    begin = time.perf_counter()
    context = multiprocessing.get_context("spawn")
    with context.Pool(given.processes, load, (given.model, given.engine)) as pool:
        for _ in pool.imap_unordered(segment, work, chunksize=AT_ONCE):
            pass
    print(json.dumps({"films_per_second": len(work) / (time.perf_counter() - begin)}))


if __name__ == "__main__":
    main()

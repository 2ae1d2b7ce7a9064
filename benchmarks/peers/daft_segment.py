"""A folder of PNG films through Daft: it reads the files, a class of ours has the model in processes; a table of masks.

    python benchmarks/peers/daft_segment.py FOLDER OUT --model BUNDLE [--engine auto] [--processes 2]

Prints JSON: ``films_per_second``, the start of the processes and the loading of the model in it.
"""

import io
import json
import os
import time
from pathlib import Path
from typing import Any  # annotations are read by Daft: none of them may be a string

import daft
from film_files import pool_words, read_square, write_mask

from covseg_ray.engine.bundle_io import load_bundle
from covseg_ray.segmentation.inference.predictor import BatchPredictor

AT_ONCE = 16


class Segmenter:
    def __init__(self, model: str, engine: str) -> None:
        self.predictor = BatchPredictor(load_bundle(model), engine=engine, threads=1)

    @daft.method.batch(return_dtype=daft.DataType.binary(), batch_size=AT_ONCE)
    def segment(self, films: daft.Series) -> Any:
        return [self.mask(film) for film in films.to_pylist()]

    def mask(self, data: bytes) -> bytes:
        size, square_SS = read_square(io.BytesIO(data), self.predictor.spec.input_size)
        out = io.BytesIO()
        write_mask(self.predictor.predict(square_SS[None])[0] == self.predictor.spec.infection, size, out)
        return out.getvalue()


def s3_settings() -> daft.io.S3Config:
    """The server and the keys that every other S3 client takes from the environment."""
    names = {"endpoint_url": "ENDPOINT_URL", "key_id": "ACCESS_KEY_ID", "access_key": "SECRET_ACCESS_KEY"}
    names["region_name"] = "DEFAULT_REGION"
    return daft.io.S3Config(**{name: os.environ.get(f"AWS_{theirs}") for name, theirs in names.items()})


def main() -> None:
    given = pool_words(__doc__).parse_args()
    # Its processes start anew and find modules by this alone.
    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    begin = time.perf_counter()
    segmenter = daft.cls(Segmenter, max_concurrency=given.processes, use_process=True)(given.model, given.engine)
    bucket = daft.io.IOConfig(s3=s3_settings())
    films = daft.from_glob_path(f"{given.films}/*.png", io_config=bucket).select("path").into_batches(AT_ONCE)
    masks = films.select("path", segmenter.segment(films["path"].download(io_config=bucket)).alias("mask"))
    masks.write_parquet(str(given.out))
    seconds = time.perf_counter() - begin
    written = daft.read_parquet(str(given.out / "*.parquet")).count_rows()
    print(json.dumps({"films_per_second": written / seconds}))


if __name__ == "__main__":
    main()

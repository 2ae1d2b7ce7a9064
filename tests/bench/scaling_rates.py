"""Rates of bulk segmentation, measured on this machine with the functions that a run uses."""

from __future__ import annotations

import io
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from datetime import datetime, timezone
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from scaling_model import BLOCK


def timed(work: Callable[[], object]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def reading(storage: str, folder: str) -> dict[str, float]:
    """Listing of a manifest, and reading: the films one after the other, and one large object."""
    from covseg_ray.storage.archives.read import list_members
    from covseg_ray.storage.filesystem import list_files, read_bytes, write_bytes
    from covseg_ray.storage.runs.worklist import write_worklist

    names = pa.table({"uri": [f"films/{index:09d}.png" for index in range(50_000)]})
    pq.write_table(names, f"{folder}/films.parquet")
    told = list[int]()
    listing = timed(lambda: write_worklist(f"{storage}/manifest", list_members(f"{folder}/films.parquet"), told.append))
    write_bytes(f"{storage}/large", bytes(64 * 10**6))
    paths = [f"{storage}/films/{name}" for name in list_files(f"{storage}/films")]
    return {
        "listing_input": listing / 50_000,
        "read_object": timed(lambda: [read_bytes(path) for path in paths]) / len(paths),
        "read_megabyte": timed(lambda: read_bytes(f"{storage}/large")) / 64,
    }


def stages(model: str, storage: str) -> dict[str, float]:
    """Decoding, outlining and writing: one process, one film after the other."""
    from covseg_ray.engine.bulk.postprocess import Outlining, outline
    from covseg_ray.engine.bulk.read import Wanted, load
    from covseg_ray.engine.bundle_io import load_bundle
    from covseg_ray.radiograph.phantom import make_phantom
    from covseg_ray.segmentation.network.preprocess import PREPROCESS_VERSION
    from covseg_ray.storage.archives.read import list_members
    from covseg_ray.storage.filesystem import read_bytes
    from covseg_ray.storage.runs.worklist import part_uri, write_worklist

    spec, model_id = load_bundle(model).spec, "0" * 16
    write_worklist(f"{storage}/listed", list_members(f"{storage}/films"), list[int]().append)
    listed = pq.read_table(io.BytesIO(read_bytes(part_uri(f"{storage}/listed", 0))))
    wanted = Wanted(spec.input_size, spec.resize)
    begin = time.perf_counter()
    loaded = pa.concat_tables(load(listed, wanted))
    loading = time.perf_counter() - begin
    masks = [make_phantom(0, place, spec.input_size, "COVID-19").infection for place in range(listed.num_rows)]
    squares = pa.array([(mask_SS > 0).astype(np.uint8).tobytes() for mask_SS in masks], pa.binary())
    found = loaded.set_column(loaded.schema.get_field_index("square"), "square", squares)
    now = datetime.now(timezone.utc)
    how = Outlining(
        storage, spec.input_size, spec.resize, ("background", "infection"), model_id, PREPROCESS_VERSION, (), now
    )
    outlining = timed(lambda: outline(found, how))
    return {
        "load_film": loading / listed.num_rows,
        "outline_film": outlining / listed.num_rows,
        **writing(f"{storage}/rows", outline(found.slice(0, BLOCK["cores"]), how)),
    }


def writing(folder: str, rows: pa.Table) -> dict[str, float]:
    """A block of rows, as Ray Data does: a pending record, the rows, and the record under its own name."""
    from covseg_ray.storage.filesystem import arrow_filesystem, locate

    place = locate(folder)
    place.fs.makedirs(place.path, exist_ok=True)
    fs = arrow_filesystem(place)

    def write(number: int) -> None:
        base = f"{place.path}/{number}"
        pq.write_table(rows.select(["item"]), f"{base}.pending", filesystem=fs)
        pq.write_table(rows, f"{base}-0.parquet", filesystem=fs)
        fs.move(f"{base}.pending", f"{base}.parquet")

    seconds = statistics.median(timed(partial(write, number)) for number in range(20))
    return {"write_block": seconds, "row_bytes": place.fs.size(f"{place.path}/0-0.parquet") / rows.num_rows}


def predicting(model: str, films: int) -> dict[str, list[float]]:
    """As many processes as cores, each with one thread, as the actors are."""
    cores = os.cpu_count() or 1
    with ProcessPoolExecutor(cores, get_context("spawn")) as pool:
        found = pool.map(predict_blocks, [model] * cores, [max(1, films // BLOCK["cores"])] * cores)
        return {"predict_blocks": [seconds for each in found for seconds in each]}


def predict_blocks(model: str, blocks: int) -> list[float]:
    """Seconds a film in each block."""
    from covseg_ray.engine.bundle_io import load_bundle
    from covseg_ray.segmentation.inference.predictor import Predictor

    predictor, block = Predictor(load_bundle(model), "cpu", threads=1), BLOCK["cores"]
    side = predictor.spec.input_size
    films_NHW = np.random.default_rng(0).integers(0, 256, (block, side, side), dtype=np.uint8)
    predictor.predict(films_NHW[:2])
    return [timed(lambda: predictor.predict(films_NHW)) / block for _ in range(blocks)]


def driving() -> dict[str, float]:
    """What the driver does for each block, through actors and then tasks that do nothing."""
    import ray
    from ray.data import ActorPoolStrategy

    from covseg_ray.engine.data_context import Rest, context
    from covseg_ray.engine.session import session, without_rays_own_lines

    class Nothing:
        def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
            return batch

    def hand_on(blocks: int) -> tuple[float, float]:
        """Seconds, and the driver's own of a processor."""
        rows = ray.data.range(2 * blocks, override_num_blocks=blocks)
        through = rows.map_batches(Nothing, batch_size=None, compute=ActorPoolStrategy(size=1))
        begin, used = time.perf_counter(), time.process_time()
        through.map_batches(lambda batch: batch, batch_size=None).materialize()
        return time.perf_counter() - begin, time.process_time() - used

    with session(), without_rays_own_lines(), ray.data.DataContext.current(context(Rest)):
        few, many = hand_on(200), hand_on(2000)
    seconds, used = ((large - small) / 1800 for small, large in zip(few, many, strict=True))
    return {"dispatch_block": seconds, "driver_block": used}


def ending(model: str, folder: Path) -> dict[str, float]:
    """The check of the ledger, report and summary after 100 blocks and after 500: what each costs, and the rest."""
    from ledger import LEFT, write_done, write_source

    from covseg_ray.engine.bulk.run import Request, finish
    from covseg_ray.engine.bundle_io import load_bundle
    from covseg_ray.reports.segment_progress import SegmentProgress
    from covseg_ray.storage.archives.read import list_members
    from covseg_ray.storage.runs.worklist import write_worklist

    bundle, seconds = load_bundle(model), []
    for blocks in (100, 500):
        inputs = blocks * BLOCK["cores"] + LEFT
        source, out = write_source(folder / str(blocks), inputs), folder / f"{blocks}/out"
        listing = write_worklist(str(out), list_members(str(source)), list[int]().append)
        write_done(out, inputs, bundle.model_id)
        done = replace(listing, inputs=inputs - LEFT)
        request, progress = Request(str(source), str(out), model), SegmentProgress(io.StringIO())
        progress.begin(done.inputs, 0, {})
        seconds.append(timed(lambda: finish(request, bundle, done, 1.0, done.inputs, progress)))  # noqa: B023
    block = (seconds[1] - seconds[0]) / 400
    return {"finish": max(0.0, seconds[0] - 100 * block), "finish_block": block}


def running(model: str, storage: str) -> dict[str, float]:
    """``covseg-ray segment`` itself over the same films: its start and end, and its films a second."""
    words = ["segment", f"{storage}/films", f"{storage}/out", "--model", model, "--json"]
    begin = time.perf_counter()
    done = subprocess.run([sys.executable, "-m", "covseg_ray", *words], capture_output=True, text=True, check=True)
    whole, told = time.perf_counter() - begin, json.loads(done.stdout)
    start = whole - told["ok"] / told["films_per_second"]
    return {"start": start, "run_films_per_second": told["films_per_second"], "run_films": told["ok"]}

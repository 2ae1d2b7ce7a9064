"""The Ray Data pipeline of a bulk run: read and decode (tasks) -> predict (actor pool) -> postprocess (tasks)."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy
from ray.data.checkpoint import CheckpointConfig
from ray.data.exceptions import ExecutionTimeoutError
from ray.exceptions import RayTaskError
from ray.util.queue import Queue

from covseg_ray.engine.bulk.monitor import Monitor, monitor_callback, report_block
from covseg_ray.engine.bulk.postprocess import postprocess
from covseg_ray.engine.bulk.read import PREDICTED, ListingDatasource, Options, load
from covseg_ray.engine.data_context import context
from covseg_ray.engine.session import alive_nodes, counted, original_error, without_rays_own_lines
from covseg_ray.errors import CovsegError
from covseg_ray.segmentation.inference.predictor import BatchPredictor, device_for
from covseg_ray.segmentation.network.bundle import Bundle
from covseg_ray.segmentation.network.bundle_files import from_files
from covseg_ray.storage.filesystem import arrow_filesystem, join, locate, translated
from covseg_ray.storage.runs.recovery import RECORDS, finished_items
from covseg_ray.storage.runs.result_table import RESULTS
from covseg_ray.storage.runs.worklist import Worklist

# Films a block: after a kill, the blocks in flight are done again.
BLOCK_FILMS = {"cpu": 64, "cuda": 512}
FILTER_BYTES = 256 * 2**20
# One for a task, one for the actor that filters finished items when a run resumes, one for an actor that predicts. With
# fewer free, Ray counts no CPU for those that predict; with none free, nodes may still join, and are counted normally.
MIN_CPUS = 3

Files: TypeAlias = "list[ray.ObjectRef[Mapping[str, bytes]]]"  # one reference to those of the bundle


@dataclass(frozen=True)
class Pool:
    """The engine of the predicting actors, their largest and initial number, and their device: one GPU each, or one
    core each because the threads of one model wait for the slowest of them. ``cpus`` is what Ray counts for each."""

    engine: str
    largest: int
    initial: int
    device: str
    cpus: int


def pool_size(actors: int | None, bundle: Bundle, engine: str) -> Pool:
    """By the cluster's size: one actor for each GPU, or for each core where this engine has no GPU. The initial actors
    leave half of the CPUs to the tasks that decode; Ray Data adds more where there is room.

    Half of the free CPUs, not of all: an actor holds its CPU while it waits for films, and Ray Data ends none until the
    first film arrives. On a cluster where other jobs hold CPUs, too many actors would leave none to the task that reads
    the listing: a deadlock."""
    cpus, gpus = int(counted("CPU") or 1), int(counted("GPU"))
    if device_for(bundle, engine, gpus > 0) == "cuda":
        largest = actors or gpus
        return Pool(engine, largest, min(largest, gpus), "cuda", 0)
    if len(alive_nodes()) == 1:  # a session started here counts more CPUs than there are cores
        cpus = min(cpus, os.cpu_count() or 1)
    largest = actors or max(1, cpus)
    free = int(ray.available_resources().get("CPU", 0))
    initial = min(largest, max(1, free // 2))
    return Pool(engine, largest, initial, "cpu", 0 if 0 < free < MIN_CPUS else 1)


class Segmenter:
    """Replaces each film's square by the model's classes and adds its expected IoU; loads the model once an actor. A
    model that cannot be loaded is reported with the first films: of an error in a constructor Ray keeps only the
    traceback's text."""

    def __init__(self, files: Files, engine: str, device: str) -> None:
        threads = 1 if device == "cpu" else None
        self.predictor: BatchPredictor | CovsegError
        try:
            self.predictor = BatchPredictor(from_files(ray.get(files[0])), device, engine=engine, threads=threads)
        except CovsegError as error:
            self.predictor = error

    def __call__(self, loaded: pa.Table) -> pa.Table:
        if isinstance(self.predictor, CovsegError):
            raise self.predictor
        return predict_table(self.predictor, loaded)


def predict_table(predictor: BatchPredictor, loaded: pa.Table) -> pa.Table:
    """Rows of ``LOADED`` -> rows of ``PREDICTED``: the model's classes in place of the films in ``square``, and each
    film's expected IoU."""
    squares, size = loaded["square"].to_pylist(), predictor.spec.input_size
    films = [np.frombuffer(square, np.uint8).reshape(size, size) for square in squares if square is not None]
    found = iter(zip(*predictor.predict_with_expected_iou(np.stack(films)), strict=True) if films else ())
    rows = [(None, None) if square is None else next(found) for square in squares]
    classes = pa.array([None if classes_SS is None else classes_SS.tobytes() for classes_SS, _ in rows], pa.binary())
    expected = pa.array([value for _, value in rows], pa.float64())
    with_classes = loaded.set_column(loaded.schema.get_field_index("square"), PREDICTED.field("square"), classes)
    return with_classes.append_column(PREDICTED.field("expected_iou"), expected)


def run(listing: Worklist, options: Options, files: Files, pool: Pool, monitor: Monitor) -> None:
    """Write the rows of every input that has none yet. Raises what a stage raised, and StorageError where Ray could
    not write."""
    out = options.out
    settings = context(monitor_callback(monitor))
    settings.checkpoint_config = _checkpoint(out)
    # A task's output goes to the next stage in blocks of so many bytes: Ray's 128 MiB would hold 2,000 films back.
    block_bytes = BLOCK_FILMS[pool.device] * options.film_bytes
    settings.target_max_block_size = min(block_bytes, settings.target_max_block_size or block_bytes)
    with ray.data.DataContext.current(settings), without_rays_own_lines():
        try:
            rows = _dataset(listing, options, files, pool, monitor.messages)
            rows.write_parquet(locate(join(out, RESULTS)).path, filesystem=arrow_filesystem(locate(out)))
        except ExecutionTimeoutError as error:
            raise _stalled(out, settings.execution_no_progress_timeout_s) from error
        except RayTaskError as error:
            with translated(out):  # Ray writes rows and records by itself
                raise original_error(error) from error


def _stalled(out: str, seconds: float) -> CovsegError:
    free, cpus = ray.available_resources().get("CPU", 0), counted("CPU")
    return CovsegError(
        f"{out}: no progress for {seconds / 60:.0f} minutes, and {free:.0f} of the cluster's {cpus:.0f} CPUs are free; "
        "stop other jobs or add nodes, and run the same command again to resume"
    )


def _checkpoint(out: str) -> CheckpointConfig:
    location = locate(join(out, RECORDS))
    config = CheckpointConfig(
        id_column="item",
        checkpoint_path=location.path,
        delete_checkpoint_on_success=False,
        override_filesystem=arrow_filesystem(location),
    )
    config.checkpoint_actor_memory_bytes = FILTER_BYTES
    return config


def _dataset(listing: Worklist, options: Options, files: Files, pool: Pool, messages: Queue) -> ray.data.Dataset:
    inputs = ListingDatasource(options.out, listing, finished_items(options.out))
    listed = ray.data.read_datasource(inputs, override_num_blocks=1)  # with more, Ray splits the output of tasks
    block = BLOCK_FILMS[pool.device]
    blocks = max(1, listing.inputs // block)
    tables: dict[str, Any] = {"batch_format": "pyarrow", "zero_copy_batch": True}
    loaded = listed.map_batches(partial(load, options=options), batch_size=None, **tables)
    predicted = loaded.repartition(target_num_rows_per_block=block).map_batches(
        Segmenter,
        fn_constructor_args=(files, pool.engine, pool.device),
        batch_size=block,
        compute=ActorPoolStrategy(min_size=1, max_size=pool.largest, initial_size=min(pool.initial, blocks)),
        num_cpus=pool.cpus,
        num_gpus=1 if pool.device == "cuda" else 0,
        **tables,
    )
    results = predicted.map_batches(partial(postprocess, options=options), batch_size=None, **tables)
    return results.map_batches(partial(report_block, messages=messages), batch_size=None, **tables)

"""A listing -> Ray Data -> the result table: read and decode in tasks, predict in an actor pool, outline in tasks."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy
from ray.data.checkpoint import CheckpointConfig
from ray.data.exceptions import ExecutionTimeoutError
from ray.exceptions import RayTaskError
from ray.util.queue import Queue

from covseg_ray.engine.bulk.datasource import Inputs
from covseg_ray.engine.bulk.monitor import Watch, callback, report
from covseg_ray.engine.bulk.postprocess import Outlining, outline
from covseg_ray.engine.bulk.read import LOADED, Wanted, load
from covseg_ray.engine.data_context import context
from covseg_ray.engine.session import raised_there, without_rays_own_lines
from covseg_ray.errors import CovsegError
from covseg_ray.segmentation.inference.predictor import Predictor, device_for
from covseg_ray.segmentation.network.bundle import Bundle
from covseg_ray.segmentation.network.bundle_files import from_files
from covseg_ray.storage.filesystem import arrow_filesystem, join, locate, translated
from covseg_ray.storage.runs.recovery import RECORDS, finished_items
from covseg_ray.storage.runs.result_table import RESULTS
from covseg_ray.storage.runs.worklist import Worklist

# The most that is done again after a kill is the blocks in flight, and each has so many films.
BLOCK_FILMS = {"cpu": 64, "cuda": 512}
FILTER_BYTES = 256 * 2**20
# A CPU each for a task, for the actor that leaves out what is done when a run goes on, and for one that predicts. Where
# fewer are free, Ray counts none for those that predict; where none is, nodes may yet come and must have room for them.
FEWEST_CPUS = 3


@dataclass(frozen=True)
class Fleet:
    """How many actors may predict, with how many of them to begin, and on what: a GPU each, or a core each, for the
    threads of one model wait for each other whenever one of them has to make room. ``cpus`` is what Ray counts for
    each."""

    most: int
    first: int
    device: str
    cpus: int


def fleet(actors: int | None, bundle: Bundle, engine: str) -> Fleet:
    """From the cluster's size: an actor for each GPU, or for each core where there is none for this engine. Actors that
    are there from the beginning leave half of the CPUs to the tasks that decode films; more come as Ray Data finds room
    for them.

    Half of the CPUs that are free: an actor keeps its CPU while it waits for films, and Ray Data gives up none before
    the first film has come. On a cluster where others hold CPUs, actors by its size would leave none to the task that
    lists the films, and all would wait for each other for ever."""
    resources = ray.cluster_resources()
    cpus, gpus = int(resources.get("CPU", 1)), int(resources.get("GPU", 0))
    if device_for(bundle, engine, gpus > 0) == "cuda":
        most = actors or gpus
        return Fleet(most, min(most, gpus), "cuda", 0)
    most = actors or max(1, min(cpus, _cores_of_local_session()))
    free = int(ray.available_resources().get("CPU", 0))
    first = min(most, max(1, free // 2))
    return Fleet(most, first, "cpu", 0 if 0 < free < FEWEST_CPUS else 1)


def _cores_of_local_session() -> int:
    """A session started here counts more CPUs than there are cores."""
    nodes = [node for node in ray.nodes() if node["Alive"]]
    return (os.cpu_count() or 1) if len(nodes) == 1 else 2**31


class Segmenter:
    """Replaces each film's square by the model's classes; one model load an actor. A model that a node cannot load is
    told with the first films: of what a constructor raises Ray keeps its traceback as text alone."""

    def __init__(self, files: list[ray.ObjectRef[Mapping[str, bytes]]], engine: str, device: str) -> None:
        threads = 1 if device == "cpu" else None
        self.predictor: Predictor | CovsegError
        try:
            self.predictor = Predictor(from_files(ray.get(files[0])), device, engine=engine, threads=threads)
        except CovsegError as error:
            self.predictor = error

    def __call__(self, loaded: pa.Table) -> pa.Table:
        if isinstance(self.predictor, CovsegError):
            raise self.predictor
        return classified(self.predictor, loaded)


def classified(predictor: Predictor, loaded: pa.Table) -> pa.Table:
    """Rows of ``LOADED`` with the model's classes in place of the films, in ``square``."""
    squares, size = loaded["square"].to_pylist(), predictor.spec.input_size
    films = [np.frombuffer(square, np.uint8).reshape(size, size) for square in squares if square is not None]
    found_NHW = iter(predictor.predict(np.stack(films)) if films else ())
    classes = [None if square is None else next(found_NHW).tobytes() for square in squares]
    place = loaded.schema.get_field_index("square")
    return loaded.set_column(place, LOADED.field("square"), pa.array(classes, pa.binary()))


@dataclass(frozen=True)
class Work:
    """All that the stages need to know; ``files`` holds a reference to those of the bundle."""

    listing: Worklist
    wanted: Wanted
    outlining: Outlining
    engine: str
    files: list[ray.ObjectRef[Mapping[str, bytes]]]
    messages: Queue


def run(work: Work, crew: Fleet, watch: Watch) -> None:
    """Write the rows of every input that has none yet. Raises what a stage raised, and StorageError where Ray could
    not write."""
    out = work.outlining.out
    settings = context(callback(watch))
    settings.checkpoint_config = _checkpoint(out)
    # Films go on from a task when they are so many bytes: at Ray's 128 MiB, 2,000 would wait for each other.
    block_bytes = BLOCK_FILMS[crew.device] * work.wanted.film_bytes
    settings.target_max_block_size = min(block_bytes, settings.target_max_block_size or block_bytes)
    with ray.data.DataContext.current(settings), without_rays_own_lines():
        try:
            _films(work, crew).write_parquet(locate(join(out, RESULTS)).path, filesystem=arrow_filesystem(locate(out)))
        except ExecutionTimeoutError as error:
            raise _stood_still(out, settings.execution_no_progress_timeout_s) from error
        except RayTaskError as error:
            with translated(out):  # Ray writes rows and records by itself
                raise raised_there(error) from error


def _stood_still(out: str, seconds: float) -> CovsegError:
    free, cpus = (found.get("CPU", 0) for found in (ray.available_resources(), ray.cluster_resources()))
    return CovsegError(
        f"{out}: nothing moved for {seconds / 60:.0f} minutes, and {free:.0f} of the cluster's {cpus:.0f} CPUs are "
        "free; end what else runs there or add nodes, and give the same command again to go on"
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


def _films(work: Work, crew: Fleet) -> ray.data.Dataset:
    out = work.outlining.out
    inputs = Inputs(out, work.listing, finished_items(out))
    listed = ray.data.read_datasource(inputs, override_num_blocks=1)  # with more, Ray would cut what a task gives
    block = BLOCK_FILMS[crew.device]
    blocks = max(1, work.listing.inputs // block)
    loaded = listed.map_batches(
        partial(load, wanted=work.wanted), batch_size=None, batch_format="pyarrow", zero_copy_batch=True
    ).repartition(target_num_rows_per_block=block)
    predicted = loaded.map_batches(
        Segmenter,
        fn_constructor_args=(work.files, work.engine, crew.device),
        batch_size=block,
        batch_format="pyarrow",
        zero_copy_batch=True,
        compute=ActorPoolStrategy(min_size=1, max_size=crew.most, initial_size=min(crew.first, blocks)),
        num_cpus=crew.cpus,
        num_gpus=1 if crew.device == "cuda" else 0,
    )
    outlined = predicted.map_batches(
        partial(outline, how=work.outlining), batch_size=None, batch_format="pyarrow", zero_copy_batch=True
    )
    return outlined.map_batches(
        partial(report, messages=work.messages), batch_size=None, batch_format="pyarrow", zero_copy_batch=True
    )

"""Bulk segmentation stage by stage on one core, and as a whole, over the model alone on films in memory."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from datetime import datetime, timezone
from itertools import islice

import pyarrow as pa

from covseg_ray.engine.bench.predict import Models
from covseg_ray.engine.bench.processes import actors, cpus, per_device, session_machine
from covseg_ray.engine.bench.rounds import Bench, Rate, Say, in_turn, output_folder
from covseg_ray.engine.bulk.pipeline import pool_size, predict_table
from covseg_ray.engine.bulk.postprocess import postprocess
from covseg_ray.engine.bulk.read import load
from covseg_ray.engine.bulk.run import Request, segment, stage_options
from covseg_ray.engine.bundle_io import load_bundle
from covseg_ray.engine.session import NO_PROGRESS, session
from covseg_ray.errors import DatasetError, UsageError
from covseg_ray.segmentation.inference.predictor import BatchPredictor, engine_of
from covseg_ray.storage.archives.read import list_members
from covseg_ray.storage.filesystem import join, locate
from covseg_ray.storage.runs.worklist import SCHEMA

ALONE, WHOLE = "the model in memory", "segment, from source to results"
READING, PREDICTING, POSTPROCESSING = "read and decode", "predict", "postprocess"


class Stages:
    """The films of a listing through each stage on one core, in films a second."""

    def __init__(self, model: str, engine: str, listed: pa.Table) -> None:
        bundle, self.listed = load_bundle(model), listed
        self.options = stage_options(bundle, "", (), datetime.now(timezone.utc))
        self.predictor = BatchPredictor(bundle, "cpu", engine=engine, threads=1)
        self.loaded = pa.concat_tables(load(listed, self.options))
        self.classes = predict_table(self.predictor, self.loaded)

    def rate(self, stage: str) -> float:
        """Films a second of one stage."""
        work: dict[str, Callable[[], int]] = {
            READING: lambda: sum(len(piece) for piece in load(self.listed, self.options)),
            PREDICTING: lambda: len(predict_table(self.predictor, self.loaded)),
            POSTPROCESSING: lambda: len(postprocess(self.classes, self.options)),
        }
        begin = time.perf_counter()
        return work[stage]() / (time.perf_counter() - begin)


def bench_segment(
    request: Request, films: int, rounds: int, say: Say, address: str | None = None, allow_open: bool = False
) -> Bench:
    """At most so many films of the source go through each stage alone, before and after the whole run, which takes all
    of it, once a round. On a cluster the model alone is in the memory of each GPU or node. Without a place for the
    results, they go to a temporary folder."""
    if address and not request.out:
        raise UsageError("--out: give a place for the results that every node of the cluster reaches")
    bundle = load_bundle(request.model)
    listed = listing(request.source, films)
    half = (rounds + 1) // 2
    with output_folder(request.out) as folder, session(address, allow_open=allow_open):
        device = pool_size(None, bundle, request.engine).device
        runs = (join(folder, f"bench-{os.getpid()}-{number}") for number in range(rounds))

        def whole() -> float:
            return float(segment(replace(request, out=next(runs)), NO_PROGRESS)["films_per_second"])

        before = stage_rates(request, films, listed, device, half, say)
        wholes = in_turn(rounds, {WHOLE: whole}, say)[WHOLE]
        after = stage_rates(request, films, listed, device, half, say)
        found = {name: before[name] + after[name] for name in before}
        where, on_cpus = session_machine(address), cpus(address)
        against = Rate(ALONE, found[ALONE], f"{engine_of(bundle, request.engine)}, {where['cores']} cores")
    own = "on one core" if device == "cpu" else "on one GPU"
    notes = {READING: "on one core", PREDICTING: own, POSTPROCESSING: "on one core"}
    stages = tuple(Rate(name, found[name], note) for name, note in notes.items())
    last = Rate(WHOLE, wholes, f"{on_cpus} cores, without the start of Ray")
    advise = advice if device == "cpu" else advice_gpu
    return Bench("segment", "films/s", where, against, (*stages, last), advise(stages, last, against, on_cpus))


def listing(source: str, films: int) -> pa.Table:
    """Rows for the first films of the source. Raises DatasetError where there are none."""
    members = list(islice(list_members(locate(source).uri), films))
    if not members:
        raise DatasetError(f"{source}: no films there; give a sample of the archive")
    rows = [{"item": place, **asdict(member)} for place, member in enumerate(members)]
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def stage_rates(
    request: Request, films: int, listed: pa.Table, device: str, rounds: int, say: Say
) -> Mapping[str, tuple[float, ...]]:
    """The stages, and the model everywhere at once, in turn, by actors that are gone afterwards."""
    everywhere = per_device(device)
    with (
        actors(Models, everywhere, [(films,)] * len(everywhere)) as models,
        actors(Stages, per_device("cpu")[:1], [(request.model, request.engine, listed)]) as stages,
    ):
        models("add", ALONE, request.model, request.engine)
        return in_turn(
            rounds,
            {
                ALONE: lambda: sum(models("rate", ALONE)),
                READING: lambda: stages("rate", READING)[0],
                PREDICTING: lambda: stages("rate", PREDICTING)[0] if device == "cpu" else models("rate", ALONE)[0],
                POSTPROCESSING: lambda: stages("rate", POSTPROCESSING)[0],
            },
            say,
        )


def advice(stages: tuple[Rate, ...], whole: Rate, against: Rate, cores: int) -> tuple[str, ...]:
    """Which stage takes how much of a film's time on a core, and what the cores could do at most."""
    seconds = {stage.name: 1 / stage.median for stage in stages}
    total = sum(seconds.values())
    shares = ", ".join(f"{name} {value / total:.0%}" for name, value in seconds.items())
    slowest = max(seconds, key=seconds.__getitem__)
    more = "more cores, another --engine, or a GPU" if slowest == PREDICTING else "more cores"
    return (
        f"of a film's {1000 * total:.0f} ms on a core: {shares}",
        f"give {slowest} more: {more}; {cores} cores could do {cores / total:,.1f} films/s by these stages",
        f"the whole reaches {whole.median / against.median:.0%} of {against.name}",
    )


def advice_gpu(stages: tuple[Rate, ...], whole: Rate, against: Rate, cores: int) -> tuple[str, ...]:
    """Whether the cores keep the GPUs busy."""
    fed = cores / sum(1 / stage.median for stage in stages if stage.name != PREDICTING)
    if fed < against.median:
        more = f"give the GPUs more cores: {cores * against.median / fed:,.0f} would keep them busy, not {cores}"
    else:
        more = "give it more GPUs"
    return (
        f"{cores} cores could read and postprocess {fed:,.1f} films/s, the GPUs predict {against.median:,.1f}",
        more,
        f"the whole reaches {whole.median / against.median:.0%} of {against.name}",
    )

"""Bulk segmentation stage by stage on one core, and as a whole, over the model alone on films in memory."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from functools import partial
from itertools import islice

import pyarrow as pa

from covseg_ray.engine.apart import apart
from covseg_ray.engine.archive import classified
from covseg_ray.engine.bench import Say, cores, in_turn, machine
from covseg_ray.engine.bench_models import Models
from covseg_ray.engine.bundles import load_bundle
from covseg_ray.engine.load import load
from covseg_ray.engine.outline import outline
from covseg_ray.engine.runtime import KEEP_MEMORY, session
from covseg_ray.engine.segment import Request, outlining, segment, wanted
from covseg_ray.errors import DatasetError
from covseg_ray.reports.bench import Bench, Rate
from covseg_ray.segmentation.bundle import Bundle
from covseg_ray.segmentation.predictor import predictor_here
from covseg_ray.storage.archives import list_members
from covseg_ray.storage.filesystem import join
from covseg_ray.storage.listing import SCHEMA

ALONE, WHOLE = "the model in memory", "segment, from source to results"
LOADING, PREDICTING, OUTLINING = "read and decode", "predict", "outline and encode"


class _Silent:
    """A run's progress, told to nobody."""

    def listed(self, inputs: int) -> None:
        return

    def begin(self, total: int, done: int, reasons: Mapping[str, int]) -> None:
        return

    def update(self, ok: int, reasons: Mapping[str, int], actors: int) -> None:
        return


@dataclass(frozen=True)
class Stages:
    """What comes of the first films of a source before and after the model: rows of a listing go in."""

    bundle: Bundle
    listed: pa.Table
    classes: pa.Table

    def load(self) -> float:
        begin = time.perf_counter()
        rows = sum(len(piece) for piece in load(self.listed, wanted(self.bundle, ())))
        return rows / (time.perf_counter() - begin)

    def outline(self) -> float:
        how = outlining(self.bundle, "", (), datetime.now(timezone.utc))
        begin = time.perf_counter()
        return len(outline(self.classes, how)) / (time.perf_counter() - begin)


def bench_segment(source: str, model: str, out: str | None, engine: str, films: int, rounds: int, say: Say) -> Bench:
    """At most ``films`` of the source go through each stage alone; the whole run takes all of it."""
    bundle = load_bundle(model)
    stages = prepare(bundle, engine, source, films)
    with (
        _folder(out) as folder,
        apart(Models, films, variables=KEEP_MEMORY) as models,
        apart(Models, films, 1, variables=KEEP_MEMORY) as on_a_core,
        session(),
    ):
        name = models("add", ALONE, model, engine)
        on_a_core("add", PREDICTING, model, engine)
        runs = (join(folder, f"bench-{os.getpid()}-{number}") for number in range(rounds))

        def whole() -> float:
            request = Request(source, next(runs), model, engine=engine)
            return float(segment(request, _Silent())["films_per_second"])

        found = in_turn(
            rounds,
            {
                ALONE: partial(models, "rate", ALONE),
                LOADING: stages.load,
                PREDICTING: partial(on_a_core, "rate", PREDICTING),
                OUTLINING: stages.outline,
                WHOLE: whole,
            },
            say,
        )
    against = Rate(ALONE, found[ALONE], f"{name}, {cores()} cores")
    on_one = tuple(Rate(name, found[name], "on one core") for name in (LOADING, PREDICTING, OUTLINING))
    last = Rate(WHOLE, found[WHOLE], f"{cores()} cores, without the start of Ray")
    return Bench("segment", "films/s", machine(), against, (*on_one, last), advice(on_one, last, against))


def prepare(bundle: Bundle, engine: str, source: str, films: int) -> Stages:
    """The first films of the source, and what comes of them at each stage."""
    members = list(islice(list_members(source), films))
    if not members:
        raise DatasetError(f"{source}: no films there; give a sample of the archive")
    rows = [{"item": place, **asdict(member)} for place, member in enumerate(members)]
    listed = pa.Table.from_pylist(rows, schema=SCHEMA)
    loaded = pa.concat_tables(load(listed, wanted(bundle, ())))
    return Stages(bundle, listed, classified(predictor_here(bundle, engine), loaded))


def advice(stages: tuple[Rate, ...], whole: Rate, against: Rate) -> tuple[str, ...]:
    """Which stage takes how much of a film's time on a core, and what the cores could do at most."""
    seconds = {stage.name: 1 / stage.median for stage in stages}
    total = sum(seconds.values())
    shares = ", ".join(f"{name} {value / total:.0%}" for name, value in seconds.items())
    slowest = max(seconds, key=seconds.__getitem__)
    more = "more cores, another --engine, or a GPU" if slowest == PREDICTING else "more cores"
    return (
        f"of a film's {1000 * total:.0f} ms on a core: {shares}",
        f"give {slowest} more: {more}; {cores()} cores could do {cores() / total:,.1f} films/s by these stages",
        f"the whole reaches {whole.median / against.median:.0%} of {against.name}",
    )


@contextmanager
def _folder(out: str | None) -> Iterator[str]:
    if out is not None:
        yield out
        return
    with tempfile.TemporaryDirectory(prefix="covseg-ray-bench-") as folder:
        yield folder

"""What a film costs on 1 to 64 nodes, on paper: rates of each stage measured here with the project's own functions, and
bulk segmentation and training put together from them.

    python tests/bench/scaling.py --model BUNDLE [--storage URI] [--into docs/scaling.md]

Prints a JSON line of the rates and one for each simulated run. ``--into`` puts the tables into the document between its
marks, and a picture beside it. ``--rates FILE`` takes the first line of an earlier output instead of measuring again.
"""

from __future__ import annotations

import argparse
import heapq
import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, fields, replace
from datetime import datetime, timezone
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from covseg_ray.engine.runtime import KEEP_MEMORY
from covseg_ray.storage.archives import READERS

NODES = (1, 2, 4, 8, 16, 32, 64)
SHARES = (32, 16, 8, 4, 2, 1)
BATCH = 32
BLOCK = {"cores": 64, "GPUs": 512}
BEND = 0.9
BEGIN, END = "<!-- tests/bench/scaling.py: begin -->", "<!-- tests/bench/scaling.py: end -->"


@dataclass(frozen=True)
class Rates:
    """Seconds of one machine, or bytes. ``*_film`` are of one core and one film, ``*_block`` of one block of 64.

    ``predict_blocks`` are the seconds a film in each block, with all cores busy; ``steps`` the seconds of each training
    step by the films in it, with all cores; ``watch_block`` is the driver's look at its counts, once a second, for each
    block done so far.
    """

    cores: int
    listing_input: float
    read_object: float
    read_megabyte: float
    film_bytes: float
    row_bytes: float
    load_film: float
    predict_blocks: Sequence[float]
    outline_film: float
    write_block: float
    dispatch_block: float
    driver_block: float
    watch_block: float
    finish: float
    finish_block: float
    start: float
    run_films_per_second: float
    run_films: int
    steps: Mapping[str, Sequence[float]]
    gradient_bytes: float
    validate_film: float
    score: float
    save: float
    checkpoint_bytes: float
    train_start: float


@dataclass(frozen=True)
class Cluster:
    """What is assumed of it: ``storage`` in bytes/s and ``requests`` a second, of all nodes together; ``latency`` in
    seconds, of an object; ``network`` in bytes/s, of each node. A GPU's rates are films/s, None without one."""

    cores: int
    storage: float
    requests: float
    latency: float
    network: float
    gpu_predict: float | None = None
    gpu_train: float | None = None


@dataclass(frozen=True)
class Outcome:
    """A simulated run; ``limit`` is the stage that needs the most time, ``losses`` are shares of the whole time."""

    nodes: int
    seconds: float
    films_per_second: float
    efficiency: float
    node_seconds_per_1000: float
    limit: str
    losses: Mapping[str, float]


# --- simulation -------------------------------------------------------------------------------------------------------


def run_blocks(
    works: Iterable[float], servers: int, dispatch: float = 0.0, shared: float = 0.0, watch: float = 0.0
) -> float:
    """Seconds until the last block is done. The driver gives them out one by one, ``dispatch`` seconds each, and loses
    ``watch`` of every second for each block so far; the server that is free first takes the next; each block keeps the
    shared storage busy for ``shared`` seconds."""
    free = [0.0] * servers
    given = stored = end = 0.0
    for number, work in enumerate(works):
        given += dispatch / max(0.1, 1 - watch * number)
        begin = max(given, free[0])
        stored = max(stored, begin) + shared
        done = max(begin + work, stored)
        heapq.heapreplace(free, done)
        end = max(end, done)
    return end


def expected_max(samples: Sequence[float], draws: int) -> float:
    """The mean of the largest of so many draws from the samples, exactly."""
    ordered = np.sort(np.asarray(samples, float))
    below = (np.arange(len(ordered) + 1) / len(ordered)) ** draws
    return float(ordered @ np.diff(below))


def ring_seconds(size: float, workers: int, network: float) -> float:
    """An all-reduce around a ring: each worker sends 2 (n-1)/n of the bytes."""
    return 2 * (workers - 1) / workers * size / network


def segment_once(rates: Rates, cluster: Cluster, films: int, nodes: int) -> tuple[float, str, dict[str, float]]:
    """Seconds, the stage that needs the most of them, and what is lost beside the work itself."""
    kind = "GPUs" if cluster.gpu_predict else "cores"
    size = BLOCK[kind]
    blocks = -(-films // size)
    load = max(rates.load_film, cluster.latency / READERS)
    write = rates.write_block / BLOCK["cores"]
    drawn = np.random.default_rng(0).choice(np.asarray(rates.predict_blocks), blocks)
    if cluster.gpu_predict:
        beside = (load + rates.outline_film + write) / cluster.cores
        kind = "GPUs" if 1 / cluster.gpu_predict > beside else "cores beside the GPUs"
        spread = drawn / drawn.mean()
        works, servers = size * max(1 / cluster.gpu_predict, beside) * spread, nodes
    else:
        works, servers = size * (load + drawn + rates.outline_film + write), nodes * cluster.cores
    requests = size + 3  # a film each; the rows, and the record under two names
    transfer = size * (rates.film_bytes + rates.row_bytes) / cluster.storage
    shared, watch = max(transfer, requests / cluster.requests), rates.watch_block
    dispatch = rates.dispatch_block
    makespan = run_blocks(works, servers, dispatch, shared, watch)
    serial = rates.start + films * rates.listing_input + rates.finish + blocks * rates.finish_block
    needs = {
        kind: float(works.sum()) / servers,
        "storage": blocks * shared,
        "driver": run_blocks(np.zeros(blocks), 1, dispatch, 0.0, watch),
        "start, listing and end": serial,
    }
    loss = {
        "storage or driver": max(0.0, max(needs["storage"], needs["driver"]) - needs[kind]),
        "the last blocks": makespan - max(needs[kind], needs["storage"], needs["driver"]),
        "start, listing and end": serial,
    }
    return makespan + serial, max(needs, key=lambda name: needs[name]), loss


def train_once(
    rates: Rates, cluster: Cluster, films: tuple[int, int, int], workers: int, each: bool
) -> tuple[float, str, dict[str, float]]:
    """The same for training, with a global batch of 32 or, by ``each``, one of 32 for each worker. Gradients are summed
    while the backward pass, two thirds of a step, still runs."""
    train, val, epochs = films
    share, batch = (BATCH, BATCH * workers) if each else (BATCH // workers, BATCH)
    faster = BATCH / cluster.gpu_train / statistics.mean(rates.steps[str(BATCH)]) if cluster.gpu_train else 1.0
    steps = train / batch
    ideal = faster * statistics.mean(rates.steps[str(BATCH)]) * share / BATCH
    mean = faster * statistics.mean(rates.steps[str(share)])
    slowest = faster * expected_max(rates.steps[str(share)], workers)
    step = slowest / 3 + max(slowest * 2 / 3, ring_seconds(rates.gradient_bytes, workers, cluster.network))
    val_share = faster * rates.validate_film * val / workers
    once = rates.train_start + rates.checkpoint_bytes / cluster.storage
    end = rates.score + rates.save
    needs = {
        "cores" if not cluster.gpu_train else "GPUs": epochs * (steps * mean + val_share),
        "network": epochs * steps * (step - slowest),
        "end of epochs": epochs * end,
        "start and end": once,
    }
    loss = {
        "small batches": epochs * steps * (mean - ideal),
        "the slowest worker": epochs * steps * (slowest - mean),
        "network": needs["network"],
        "end of epochs": needs["end of epochs"],
        "start and end": once,
    }
    return once + epochs * (steps * step + val_share + end), max(needs, key=lambda name: needs[name]), loss


def outcomes(films: int, runs: Mapping[int, tuple[float, str, dict[str, float]]]) -> list[Outcome]:
    """``runs`` by nodes; ``films`` are those that each has done at its end."""
    first, alone = min(runs), runs[min(runs)][0]
    return [
        Outcome(
            nodes=nodes,
            seconds=seconds,
            films_per_second=films / seconds,
            efficiency=alone * first / (seconds * nodes),
            node_seconds_per_1000=1000 * nodes * seconds / films,
            limit=limit,
            losses={name: value / seconds for name, value in loss.items()},
        )
        for nodes, (seconds, limit, loss) in sorted(runs.items())
    ]


# --- measuring --------------------------------------------------------------------------------------------------------


def timed(work: Callable[[], object]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def measure(model: str, storage: str, films: int, side: int) -> Rates:
    """All of it, in some minutes; films are phantoms, written below ``storage``."""
    from covseg_ray.radiograph.encode import encode_png
    from covseg_ray.radiograph.phantom import make_phantom
    from covseg_ray.storage.filesystem import write_bytes

    data = [encode_png(make_phantom(0, index, side).image) for index in range(films)]
    for index, each in enumerate(data):
        write_bytes(f"{storage}/films/{index:06d}.png", each)
    with tempfile.TemporaryDirectory() as folder:
        found: dict[str, object] = {"cores": os.cpu_count(), "film_bytes": statistics.mean(map(len, data))}
        for part in (
            lambda: stages(model, storage, folder),
            lambda: predicting(model, films),
            lambda: driving(f"{folder}/held"),
            lambda: ending(model, Path(folder)),
            lambda: running(model, storage),
            training,
            lambda: starting(folder),
        ):
            found |= part()
            print(f"{len(found)} of {len(fields(Rates))} rates", file=sys.stderr, flush=True)
    return Rates(**found)  # type: ignore[arg-type]


def stages(model: str, storage: str, folder: str) -> dict[str, float]:
    """Listing, reading, decoding, outlining and writing: one process, one film after the other."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from covseg_ray.engine.bundles import load_bundle
    from covseg_ray.engine.load import Wanted, load
    from covseg_ray.engine.outline import Outlining, outline
    from covseg_ray.radiograph.phantom import make_phantom
    from covseg_ray.segmentation.preprocess import PREPROCESS_VERSION
    from covseg_ray.storage.archives import list_members
    from covseg_ray.storage.filesystem import arrow_filesystem, list_files, locate, read_bytes, write_bytes
    from covseg_ray.storage.listing import file_uri, write_listing

    names = pa.table({"uri": [f"films/{index:09d}.png" for index in range(50_000)]})
    pq.write_table(names, f"{folder}/films.parquet")
    listing = timed(lambda: write_listing(f"{storage}/manifest", list_members(f"{folder}/films.parquet"), [].append))
    write_bytes(f"{storage}/large", bytes(64 * 10**6))
    paths = [f"{storage}/films/{name}" for name in list_files(f"{storage}/films")]
    reading = timed(lambda: [read_bytes(path) for path in paths])
    large = timed(lambda: read_bytes(f"{storage}/large"))

    spec, model_id = load_bundle(model).spec, "0" * 16
    write_listing(f"{storage}/listed", list_members(f"{storage}/films"), [].append)
    listed = pq.read_table(io.BytesIO(read_bytes(file_uri(f"{storage}/listed", 0))))
    wanted = Wanted(spec.input_size, spec.resize)
    begin = time.perf_counter()
    loaded = pa.concat_tables(load(listed, wanted))
    loading = time.perf_counter() - begin
    masks = [make_phantom(0, place, spec.input_size, "COVID-19").infection for place in range(len(paths))]
    squares = pa.array([(mask_SS > 0).astype(np.uint8).tobytes() for mask_SS in masks], pa.binary())
    found = loaded.set_column(loaded.schema.get_field_index("square"), "square", squares)
    now = datetime.now(timezone.utc)
    how = Outlining(
        storage, spec.input_size, spec.resize, ("background", "infection"), model_id, PREPROCESS_VERSION, (), now
    )
    outlining = timed(lambda: outline(found, how))
    rows = outline(found.slice(0, BLOCK["cores"]), how)
    place = locate(f"{storage}/rows")
    place.fs.makedirs(place.path, exist_ok=True)
    fs = arrow_filesystem(place)

    def write(number: int) -> None:
        """As Ray Data does: a pending record, the rows, and the record under its own name."""
        base = f"{place.path}/{number}"
        pq.write_table(rows.select(["item"]), f"{base}.pending", filesystem=fs)
        pq.write_table(rows, f"{base}-0.parquet", filesystem=fs)
        fs.move(f"{base}.pending", f"{base}.parquet")

    writing = statistics.median(timed(lambda number=number: write(number)) for number in range(20))  # type: ignore[misc]
    return {
        "listing_input": listing / 50_000,
        "read_object": reading / len(paths),
        "read_megabyte": large / 64,
        "row_bytes": place.fs.size(f"{place.path}/0-0.parquet") / rows.num_rows,
        "load_film": loading / len(paths),
        "outline_film": outlining / len(paths),
        "write_block": writing,
    }


def predicting(model: str, films: int) -> dict[str, list[float]]:
    """As many processes as cores, each with one thread, as the actors are."""
    cores = os.cpu_count() or 1
    with ProcessPoolExecutor(cores, get_context("spawn")) as pool:
        found = pool.map(predict_blocks, [model] * cores, [max(1, films // BLOCK["cores"])] * cores)
        return {"predict_blocks": [seconds for each in found for seconds in each]}


def predict_blocks(model: str, blocks: int) -> list[float]:
    """Seconds a film in each block."""
    from covseg_ray.engine.bundles import load_bundle
    from covseg_ray.segmentation.predictor import Predictor

    predictor, block = Predictor(load_bundle(model), "cpu", threads=1), BLOCK["cores"]
    side = predictor.spec.input_size
    films_NHW = np.random.default_rng(0).integers(0, 256, (block, side, side), dtype=np.uint8)
    predictor.predict(films_NHW[:2])
    return [timed(lambda: predictor.predict(films_NHW)) / block for _ in range(blocks)]


def driving(held: str) -> dict[str, float]:
    """What the driver does for each block, through actors and then tasks that do nothing; and its look at counts."""
    import ray
    from ray.data import ActorPoolStrategy

    from covseg_ray.engine.rest import Rest
    from covseg_ray.engine.runtime import session, without_rays_own_lines
    from covseg_ray.engine.task import open_messages
    from covseg_ray.engine.watch import Watch
    from covseg_ray.reports.segment_progress import SegmentProgress
    from covseg_ray.storage.lease import hold
    from covseg_ray.storage.results import Tally

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

    progress = SegmentProgress(io.StringIO())
    progress.begin(10**7, 0, {})
    with session(), without_rays_own_lines(), hold(held) as lease:
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        context.custom_execution_callback_classes = [Rest]
        few, many = hand_on(200), hand_on(2000)
        watch = Watch(held, open_messages(), lease, progress, Tally(0, {}), None)
        watch.blocks = {number: Counter({"": 63, "corrupt": 1}) for number in range(50_000)}
        watch.look(1)
        watch.told = 0.0
        looking = timed(lambda: watch.look(1))
    seconds, used = ((large - small) / 1800 for small, large in zip(few, many, strict=True))
    return {"dispatch_block": seconds, "driver_block": used, "watch_block": looking / 50_000}


def ending(model: str, folder: Path) -> dict[str, float]:
    """The check of the ledger, report and summary after 100 blocks and after 500: what each costs, and the rest."""
    from ledger import LEFT, write_done, write_source

    from covseg_ray.engine.bundles import load_bundle
    from covseg_ray.engine.segment import Request, finish
    from covseg_ray.reports.segment_progress import SegmentProgress
    from covseg_ray.storage.archives import list_members
    from covseg_ray.storage.listing import write_listing

    bundle, seconds = load_bundle(model), []
    for blocks in (100, 500):
        inputs = blocks * BLOCK["cores"] + LEFT
        source, out = write_source(folder / str(blocks), inputs), folder / f"{blocks}/out"
        listing = write_listing(str(out), list_members(str(source)), [].append)
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


def training() -> dict[str, object]:
    """Steps of the paper's recipe by the films in them, validation, and what a checkpoint takes, without Ray."""
    import torch

    from covseg_ray.config import Job
    from covseg_ray.engine.learner import Learner, build_optimizer, build_schedule
    from covseg_ray.segmentation.augment import augment, augmentation
    from covseg_ray.segmentation.losses import build_loss
    from covseg_ray.segmentation.metrics import point_values
    from covseg_ray.segmentation.network import build_network, channels_last
    from covseg_ray.segmentation.preprocess import Preprocess

    torch.set_num_threads(os.cpu_count() or 1)
    torch.set_flush_denormal(True)
    job = Job()
    network = channels_last(build_network(job.model.architecture, job.model.encoder, "none", len(job.model.classes)))
    optimizer = build_optimizer(job.train, network)
    loss, schedule = build_loss(job.train.loss), build_schedule(job.train, optimizer, 1)
    learner = Learner(
        network, network, Preprocess(), loss, optimizer, schedule, torch.device("cpu"), job.train.precision
    )
    recipe = augmentation(job.train.augment)
    films_NHW = torch.randint(0, 256, (BATCH, 256, 256), dtype=torch.uint8)
    truth_NHW = torch.randint(0, 2, (BATCH, 256, 256), dtype=torch.uint8)
    learner.network.train()
    steps: dict[str, list[float]] = {}
    for share in SHARES:
        images, truth = films_NHW[:share], truth_NHW[:share]
        each = [timed(lambda: learner.step(*augment(images, truth, recipe, 0))) for _ in range(3 + 16 // share)]  # noqa: B023
        steps[str(share)] = each[1:]
    learner.network.eval()
    with torch.inference_mode():
        validating = timed(lambda: learner.forward_loss(films_NHW, truth_NHW))
    counts_N4 = np.random.default_rng(0).integers(1, 9, (932, 4))
    file = io.BytesIO()
    return {
        "steps": steps,
        "gradient_bytes": sum(4 * each.numel() for each in network.parameters()),
        "validate_film": validating / BATCH,
        "score": timed(lambda: point_values([f"{n:04d}" for n in range(932)], counts_N4)),
        "save": timed(lambda: torch.save(learner.state(), file)),
        "checkpoint_bytes": len(file.getbuffer()),
    }


def starting(folder: str) -> dict[str, float]:
    """``covseg-ray train`` of one small epoch: all but the epoch is its start and its end."""
    from covseg_ray.storage.packing import synthesise

    synthesise(f"{folder}/tiny", 40, size=64)
    sets = {"data.dataset": f"{folder}/tiny", "out": folder, "name": "run", "train.epochs": 1, "train.batch_size": 16}
    sets |= {"model.encoder": "resnet18", "model.encoder_weights": "none"}
    words = [word for key, value in sets.items() for word in ("--set", f"{key}={value}")]
    command = [sys.executable, "-m", "covseg_ray", "train", "-c", os.devnull, *words]
    whole = timed(lambda: subprocess.run(command, capture_output=True, check=True))
    (record,) = (json.loads(line) for line in Path(folder, "run/metrics.jsonl").read_text().splitlines())
    return {"train_start": whole - record["seconds"]}


# --- tables -----------------------------------------------------------------------------------------------------------


def rates_table(rates: Rates) -> str:
    blocks = np.asarray(rates.predict_blocks)
    one = rates.load_film + blocks.mean() + rates.outline_film + rates.write_block / BLOCK["cores"]
    lines = [
        ("list and number inputs of a manifest", f"{1 / rates.listing_input:,.0f} inputs/s"),
        ("read a film, alone", f"{1000 * rates.read_object:.2f} ms for {rates.film_bytes / 1e3:,.0f} kB"),
        ("read one large object", f"{1 / rates.read_megabyte:,.0f} MB/s"),
        ("read, decode, standardise", f"{1 / rates.load_film:,.1f} films/s a core"),
        ("predict, all cores busy", f"{1 / blocks.mean():,.1f} films/s a core"),
        (
            "spread of blocks (standard deviation over mean)",
            f"{blocks.std() / blocks.mean():.3f}, {len(blocks)} blocks",
        ),
        ("mask, shares, row", f"{1 / rates.outline_film:,.0f} films/s a core"),
        (
            "write a block of 64 rows and its record",
            f"{1000 * rates.write_block:.1f} ms, {rates.row_bytes:,.0f} B a film",
        ),
        ("Ray Data, one actor pool and one task, doing nothing", f"{1 / rates.dispatch_block:,.0f} blocks/s"),
        ("the driver's own processor time in that", f"{1000 * rates.driver_block:.1f} ms a block"),
        ("the driver's look at its counts, once a second", f"{1e6 * rates.watch_block:.2f} µs for each block so far"),
        ("end: check, report, summary", f"{rates.finish:.1f} s, and {1000 * rates.finish_block:.2f} ms a block"),
        ("`covseg-ray segment`, all but the films", f"{rates.start:.0f} s"),
        ("`covseg-ray segment`, the films", f"{rates.run_films_per_second:.1f} films/s ({rates.run_films} films)"),
        (f"the stages above put together, {rates.cores} cores", f"{rates.cores / one:.1f} films/s"),
        *(
            (
                f"training step, batch of {share}",
                f"{statistics.mean(rates.steps[str(share)]):.2f} s, "
                f"{share / statistics.mean(rates.steps[str(share)]):.2f} films/s",
            )
            for share in SHARES
        ),
        ("gradients summed in a step", f"{rates.gradient_bytes / 1e6:.1f} MB"),
        ("validation", f"{1 / rates.validate_film:.1f} films/s; metrics of 932 films {rates.score:.3f} s"),
        ("checkpoint", f"{rates.save:.2f} s to make, {rates.checkpoint_bytes / 1e6:.0f} MB"),
        ("`covseg-ray train`, all but the epochs", f"{rates.train_start:.0f} s"),
    ]
    return table(("stage", f"measured ({rates.cores} cores)"), lines)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows))


def runs_table(found: Sequence[Outcome]) -> str:
    head = ("nodes", "films/s", "efficiency", "node-seconds per 1,000 films", "limit", "largest loss")
    return table(head, [_run_row(each) for each in found])


def _run_row(run: Outcome) -> tuple[str, ...]:
    lost = max(run.losses, key=lambda name: run.losses[name])
    cost = f"{run.node_seconds_per_1000:,.1f}"
    loss = f"{lost}, {run.losses[lost]:.0%}"
    return str(run.nodes), f"{run.films_per_second:,.1f}", f"{run.efficiency:.2f}", cost, run.limit, loss


def bend(found: Sequence[Outcome]) -> str:
    """Where it stops being linear, in a sentence."""
    for run in found:
        if run.efficiency < BEND:
            lost = max(run.losses, key=lambda name: run.losses[name])
            return f"Below {BEND:.0%} of linear from {run.nodes} nodes on: {lost}."
    return f"At least {BEND:.0%} of linear up to {found[-1].nodes} nodes."


def put_between(path: Path, text: str) -> None:
    """Replace what stands between the marks of the document."""
    before, begin, rest = path.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"{path}: the marks are missing; write {BEGIN} and {END} where the tables belong")
    path.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{after}", encoding="utf-8")


def draw(path: Path, scenarios: Mapping[str, Sequence[Outcome]]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 3.6), dpi=80)
    for name, found in scenarios.items():
        axes.plot([run.nodes for run in found], [run.efficiency for run in found], marker="o", label=name)
    axes.set_xscale("log", base=2)
    axes.set_xticks(NODES, [str(nodes) for nodes in NODES])
    axes.set_ylim(0, 1.05)
    axes.set_xlabel("nodes")
    axes.set_ylabel("efficiency against one node")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, fontsize=8)
    figure.tight_layout()
    figure.savefig(path, metadata={"Software": None})


def simulate(
    rates: Rates, cluster: Cluster, films: int, training_films: tuple[int, int, int]
) -> dict[str, list[Outcome]]:
    """Every scenario, by its title."""
    cpus = replace(cluster, gpu_predict=None, gpu_train=None)
    own = replace(cpus, cores=rates.cores)
    seen = training_films[0] * training_films[2]
    shared = [nodes for nodes in NODES if nodes <= BATCH]  # no worker without a film
    found = {
        f"Segmentation of {films:,} films, nodes of {cluster.cores} cores": outcomes(
            films, {nodes: segment_once(rates, cpus, films, nodes) for nodes in NODES}
        ),
        f"Training, batch 32 over all, nodes of {rates.cores} cores": outcomes(
            seen, {nodes: train_once(rates, own, training_films, nodes, False) for nodes in shared}
        ),
        f"Training, batch 32 on each, nodes of {rates.cores} cores": outcomes(
            seen, {nodes: train_once(rates, own, training_films, nodes, True) for nodes in NODES}
        ),
    }
    if cluster.gpu_predict:
        node = f"a GPU of {cluster.gpu_predict:,.0f} films/s and {cluster.cores} cores"
        title = f"Segmentation of {films:,} films, nodes of {node}"
        runs = {nodes: segment_once(rates, cluster, films, nodes) for nodes in NODES}
        found[title] = outcomes(films, runs)
    if cluster.gpu_train:
        title = f"Training, batch 32 over all, a GPU of {cluster.gpu_train:,.0f} films/s a node"
        runs = {nodes: train_once(rates, cluster, training_films, nodes, False) for nodes in shared}
        found[title] = outcomes(seen, runs)
    return found


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a bundle; needed to measure")
    parser.add_argument("--rates", type=Path, help="rates of an earlier run")
    parser.add_argument("--into", type=Path, help="a document with the marks")
    parser.add_argument("--storage", help="a new folder or s3:// URI for the measured films; a temporary folder else")
    parser.add_argument("--measured", type=int, default=192, help="films to measure with")
    parser.add_argument("--side", type=int, default=1024, help="pixels a side of those films")
    parser.add_argument("--films", type=int, default=1_000_000, help="films of the simulated archive")
    parser.add_argument("--training", type=int, nargs=3, default=(3728, 932, 50), metavar=("TRAIN", "VAL", "EPOCHS"))
    parser.add_argument("--cores", type=int, default=16, help="of a node of the simulated cluster, for segmentation")
    parser.add_argument("--storage-mb", type=float, default=5000, help="MB/s that all nodes share")
    parser.add_argument("--requests", type=float, default=5500, help="requests a second that all nodes share")
    parser.add_argument("--latency-ms", type=float, default=30, help="of one object")
    parser.add_argument("--network-mb", type=float, default=1250, help="MB/s of each node to its neighbour")
    parser.add_argument("--gpu-predict", type=float, help="films/s of a node's GPU, segmentation")
    parser.add_argument("--gpu-train", type=float, help="films/s of a node's GPU, training steps of 32")
    given = parser.parse_args()
    if not given.model and not given.rates:
        parser.error("give --model to measure with, or --rates of an earlier run")
    return given


def main() -> None:
    if any(os.environ.get(name) != value for name, value in KEEP_MEMORY.items()):  # as Ray's workers have it
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | KEEP_MEMORY)
    given = parse()
    if given.rates:
        rates = Rates(**json.loads(given.rates.read_text().splitlines()[0]))
    else:
        with tempfile.TemporaryDirectory() as folder:
            rates = measure(given.model, given.storage or f"{folder}/storage", given.measured, given.side)
    cluster = Cluster(
        cores=given.cores,
        storage=1e6 * given.storage_mb,
        requests=given.requests,
        latency=given.latency_ms / 1000,
        network=1e6 * given.network_mb,
        gpu_predict=given.gpu_predict,
        gpu_train=given.gpu_train,
    )
    scenarios = simulate(rates, cluster, given.films, tuple(given.training))
    print(json.dumps(asdict(rates)))
    for title, found in scenarios.items():
        for run in found:
            print(json.dumps({"scenario": title} | asdict(run)))
    parts = [f"### {title}\n\n{runs_table(found)}\n\n{bend(found)}" for title, found in scenarios.items()]
    text = "\n\n".join(["### Rates", rates_table(rates), *parts])
    if given.into:
        put_between(given.into, text)
        draw(given.into.with_suffix(".png"), scenarios)
    else:
        print(text)


if __name__ == "__main__":
    main()

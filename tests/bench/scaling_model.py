"""Bulk segmentation and training on a cluster that is assumed, put together from the rates of one machine."""

from __future__ import annotations

import heapq
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from covseg_ray.storage.archives.read import READERS

BATCH = 32
BLOCK = {"cores": 64, "GPUs": 512}


@dataclass(frozen=True)
class Rates:
    """Of one machine. A block is one of 64 films."""

    cores: int
    listing_input: float  # seconds an input of a manifest
    read_object: float  # seconds a film, one after the other
    read_megabyte: float  # seconds a megabyte of a large object
    film_bytes: float  # bytes a film
    row_bytes: float  # bytes a film
    load_film: float  # seconds a film on one core
    predict_blocks: Sequence[float]  # seconds a film on one core, for each block, all cores busy
    outline_film: float  # seconds a film on one core
    write_block: float  # seconds a block on one core
    dispatch_block: float  # seconds a block through Ray Data
    driver_block: float  # seconds a block, of the driver's own processor time in that
    finish: float  # seconds a run: the check, report and summary at its end
    finish_block: float  # seconds a block, of the same
    start: float  # seconds of ``covseg-ray segment``, all but the films
    run_films_per_second: float  # films/s of that command
    run_films: int  # films that it took
    steps: Mapping[str, Sequence[float]]  # seconds of each training step, by the films in it, on all cores
    gradient_bytes: float  # bytes a step
    validate_film: float  # seconds a film, on all cores
    score: float  # seconds an epoch: metrics of the validation
    save: float  # seconds a checkpoint
    checkpoint_bytes: float  # bytes a checkpoint
    train_start: float  # seconds of ``covseg-ray train``, all but the epochs


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


def run_blocks(works: Iterable[float], servers: int, dispatch: float = 0.0, shared: float = 0.0) -> float:
    """Seconds until the last block is done. The driver gives them out one by one, ``dispatch`` seconds each; the
    server that is free first takes the next; each block keeps the shared storage busy for ``shared`` seconds."""
    free = [0.0] * servers
    given = stored = end = 0.0
    for work in works:
        given += dispatch
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
    shared = max(transfer, requests / cluster.requests)
    dispatch = rates.dispatch_block
    makespan = run_blocks(works, servers, dispatch, shared)
    serial = rates.start + films * rates.listing_input + rates.finish + blocks * rates.finish_block
    needs = {
        kind: float(works.sum()) / servers,
        "storage": blocks * shared,
        "driver": run_blocks(np.zeros(blocks), 1, dispatch),
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

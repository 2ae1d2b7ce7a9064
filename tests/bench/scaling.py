"""What a film costs on 1 to 64 nodes, on paper: rates of each stage measured here with the project's own functions, and
bulk segmentation and training put together from them.

    python tests/bench/scaling.py --model BUNDLE [--storage URI] [--into docs/scaling.md]

Prints a JSON line of the rates and one for each simulated run. ``--into`` puts the tables into the document between its
marks, and a picture beside it. ``--rates FILE`` takes the first line of an earlier output instead of measuring again.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from dataclasses import asdict, fields, replace
from pathlib import Path

from scaling_model import BATCH, Cluster, Outcome, Rates, outcomes, segment_once, train_once
from scaling_rates import driving, ending, predicting, reading, running, stages
from scaling_tables import bend, draw, put_between, rates_table, runs_table
from scaling_training import starting, training

from covseg_ray.engine.session import KEEP_MEMORY

NODES = (1, 2, 4, 8, 16, 32, 64)


def measure(model: str, storage: str, films: int, side: int) -> Rates:
    """All of it, in some minutes; films are phantoms, written below ``storage``."""
    from covseg_ray.radiograph.phantom import make_phantom
    from covseg_ray.radiograph.png import encode_png
    from covseg_ray.storage.filesystem import write_bytes

    data = [encode_png(make_phantom(0, index, side).image) for index in range(films)]
    for index, each in enumerate(data):
        write_bytes(f"{storage}/films/{index:06d}.png", each)
    with tempfile.TemporaryDirectory() as folder:
        found: dict[str, object] = {"cores": os.cpu_count(), "film_bytes": statistics.mean(map(len, data))}
        for part in (
            lambda: reading(storage, folder),
            lambda: stages(model, storage),
            lambda: predicting(model, films),
            driving,
            lambda: ending(model, Path(folder)),
            lambda: running(model, storage),
            training,
            lambda: starting(folder),
        ):
            found |= part()
            print(f"{len(found)} of {len(fields(Rates))} rates", file=sys.stderr, flush=True)
    return Rates(**found)  # type: ignore[arg-type]


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

"""Images/s of ``covseg-ray train`` beside a DataLoader script at its defaults and a tuned one, in turn.

    python benchmarks/train_peers.py [--rounds 5] [--films 128] [--steps 4] [--slow-steps 1] [--processes 1,2]

The same phantoms for all, flips alone, batch 32 over all processes, no pretraining. The scripts' rate leaves out their
first step; ours is that of the second epoch. ``--steps`` are those of the tuned scripts, ``--slow-steps`` of the ones
at their defaults.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
from functools import partial
from pathlib import Path

from rounds import Arm, Figures, covseg, in_turn, python, run, settings

from covseg_ray.radiograph.masks import encode_png
from covseg_ray.radiograph.phantom import make_phantom
from covseg_ray.storage.datasets.pack import VAL_EVERY, synthesise

HERE = Path(__file__).parent
JOB = HERE.parent / "jobs/train.toml"
MEASURE = "images_per_second"
AIMS = {"defaults": 5.0, "tuned": 1.0}
LOOPBACK = {"GLOO_SOCKET_IFNAME": "lo"}


def write_films(folder: Path, count: int) -> None:
    """``dataset`` for covseg-ray, and the films that it trains on as ``films/{images,masks}/*.png`` for the scripts."""
    synthesise(f"{folder}/dataset", count)
    for kind in ("images", "masks"):
        (folder / "films" / kind).mkdir(parents=True)
    for index in (index for index in range(count) if index % VAL_EVERY != VAL_EVERY - 1):
        phantom = make_phantom(0, index)
        (folder / f"films/images/{index:05d}.png").write_bytes(encode_png(phantom.image))
        (folder / f"films/masks/{index:05d}.png").write_bytes(encode_png(255 * phantom.infection))


def ours(folder: Path, workers: int) -> Figures:
    shutil.rmtree(folder / "runs", ignore_errors=True)
    values = {
        "name": "bench",
        "out": folder / "runs",
        "workers": workers,
        "data.dataset": folder / "dataset",
        "model.encoder_weights": "none",
        "train.epochs": 2,
        "train.augment": "flips",
        "tracking.tensorboard": "false",
    }
    run(covseg("train", "-c", JOB, *settings(values)))
    records = [json.loads(line) for line in (folder / "runs/bench/metrics.jsonl").read_text().splitlines()]
    return {MEASURE: records[-1][MEASURE]}


def script(folder: Path, recipe: str, processes: int, steps: int) -> Figures:
    """Under torchrun where there are several; each has its share of the cores for its threads and DataLoader."""
    cores = os.cpu_count() or 1
    several = ["-m", "torch.distributed.run", "--nproc-per-node", str(processes), "--master-addr", "127.0.0.1"]
    words = [*(several if processes > 1 else []), HERE / "peers/dataloader_train.py", folder / "films"]
    workers = max(1, cores // processes)
    options = ["--recipe", recipe, "--steps", steps, "--workers", workers]
    threads = {"OMP_NUM_THREADS": str(workers)} if processes > 1 else {}
    output = run(python(*words, *options), LOOPBACK | threads)
    return {MEASURE: float(json.loads(output.splitlines()[-1])[MEASURE])}


def arms(folder: Path, given: argparse.Namespace) -> dict[str, Arm]:
    found: dict[str, Arm] = {}
    for processes in map(int, given.processes.split(",")):
        found[name("covseg-ray train", processes)] = partial(ours, folder, processes)
        for recipe, steps in (("defaults", given.slow_steps), ("tuned", given.steps)):
            found[name(recipe, processes)] = partial(script, folder, recipe, processes, steps)
    return found


def name(program: str, processes: int) -> str:
    return f"{program}, {processes} process{'es' if processes > 1 else ''}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--films", type=int, default=160, help="phantoms; every fifth is for validation")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--slow-steps", type=int, default=1)
    parser.add_argument("--processes", default="1,2")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        write_films(Path(folder), given.films)
        measured = in_turn(arms(Path(folder), given), given.rounds)
    counts = [int(each) for each in given.processes.split(",")]
    best = measured.best([name("covseg-ray train", each) for each in counts], MEASURE)
    for recipe, aim in AIMS.items():
        for processes in counts:
            measured.ratio(best, name(recipe, processes), MEASURE, aim)
    sys.exit(bool(measured.broken))


if __name__ == "__main__":
    main()

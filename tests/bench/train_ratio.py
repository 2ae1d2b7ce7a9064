"""Training through S3, Ray Data and Ray Train against bare steps on tensors in memory, run in turn on the same machine.

    python tests/bench/train_ratio.py [--dataset URI] [--rounds 2] [--epochs 3]

Without --dataset, 320 phantoms (256 of them to train on) are packed into a folder first. Prints JSON: the images/s of
both, their ratio after the first epoch, and the wait for the first batch of each epoch.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from covseg_ray.storage.packing import synthesise

HERE = Path(__file__).parent


def through_ray(dataset: str, folder: str, name: str, options: argparse.Namespace) -> list[dict[str, float]]:
    """The records of a short run's epochs."""
    values = {
        "name": name,
        "out": folder,
        "workers": options.workers,
        "data.dataset": dataset,
        "model.encoder": options.encoder,
        "model.encoder_weights": "none",
        "train.epochs": options.epochs,
        "train.augment": "none",
    }
    sets = [part for key, value in values.items() for part in ("--set", f"{key}={value}")]
    job = HERE.parents[1] / "jobs/train.toml"
    subprocess.run(
        [sys.executable, "-m", "covseg_ray", "train", "-c", str(job), *sets], check=True, capture_output=True
    )
    return [json.loads(line) for line in Path(folder, name, "metrics.jsonl").read_text().splitlines()]


def bare(options: argparse.Namespace) -> float:
    threads = max(1, len(os.sched_getaffinity(0)) // options.workers)
    arguments = {"workers": options.workers, "threads": threads, "encoder": options.encoder, "size": options.size}
    command = [sys.executable, str(HERE / "bare_steps.py"), *(f"--{k}={v}" for k, v in arguments.items())]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(json.loads(done.stdout)["images_per_second"])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--dataset")
    for name, default in (("rounds", 2), ("epochs", 3), ("workers", 2), ("films", 320), ("size", 256)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--encoder", default="resnet34")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        dataset = options.dataset or f"{folder}/dataset"
        if not options.dataset:
            synthesise(dataset, options.films, size=options.size)
        bare_rates, ray_rates, waits = [], [], []
        for number in range(options.rounds):
            bare_rates.append(bare(options))
            records = through_ray(dataset, folder, f"run-{number}", options)
            ray_rates += [record["images_per_second"] for record in records[1:]]
            waits.append([round(record["first_batch_seconds"], 3) for record in records])
    result = {
        "bare_images_per_second": statistics.median(bare_rates),
        "ray_images_per_second": statistics.median(ray_rates),
        "ratio": statistics.median(ray_rates) / statistics.median(bare_rates),
        "first_batch_seconds_by_epoch": waits,
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()

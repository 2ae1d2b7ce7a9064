"""Rates of training, measured on this machine: the published recipe's steps, and what a command adds to its epochs."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from scaling_model import BATCH
from scaling_rates import timed

SHARES = (32, 16, 8, 4, 2, 1)


def training() -> dict[str, object]:
    """Steps of the paper's recipe by the films in them, validation, and what a checkpoint takes, without Ray."""
    import torch

    from covseg_ray.config.train import Job
    from covseg_ray.engine.training.learner import build_learner, make_fast
    from covseg_ray.segmentation.evaluation.metrics import point_values
    from covseg_ray.segmentation.network.build import build_network
    from covseg_ray.segmentation.training.augment import augment, augmentation

    job, cpu = Job(), torch.device("cpu")
    make_fast(cpu, os.cpu_count() or 1)
    network = build_network(job.model.architecture, job.model.encoder, "none", len(job.model.classes))
    learner = build_learner(job, 1, network.state_dict(), cpu, wrap=lambda module: module)
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
        validating = timed(lambda: learner.judged(films_NHW, truth_NHW))
    counts_N4 = np.random.default_rng(0).integers(1, 9, (932, 4))
    file = io.BytesIO()
    return {
        "steps": steps,
        "gradient_bytes": sum(4 * each.numel() for each in learner.network.parameters()),
        "validate_film": validating / BATCH,
        "score": timed(lambda: point_values([f"{n:04d}" for n in range(932)], counts_N4)),
        "save": timed(lambda: torch.save(learner.state(), file)),
        "checkpoint_bytes": len(file.getbuffer()),
    }


def starting(folder: str) -> dict[str, float]:
    """``covseg-ray train`` of one small epoch: all but the epoch is its start and its end."""
    from covseg_ray.storage.datasets.pack import synthesise

    synthesise(f"{folder}/tiny", 40, size=64)
    sets = {"data.dataset": f"{folder}/tiny", "out": folder, "name": "run", "train.epochs": 1, "train.batch_size": 16}
    sets |= {"model.encoder": "resnet18", "model.encoder_weights": "none"}
    words = [word for key, value in sets.items() for word in ("--set", f"{key}={value}")]
    command = [sys.executable, "-m", "covseg_ray", "train", "-c", os.devnull, *words]
    whole = timed(lambda: subprocess.run(command, capture_output=True, check=True))
    (record,) = (json.loads(line) for line in Path(folder, "run/metrics.jsonl").read_text().splitlines())
    return {"train_start": whole - record["seconds"]}

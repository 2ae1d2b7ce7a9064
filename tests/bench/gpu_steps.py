"""What a GPU does with films that lie in its memory: training steps three ways, and prediction. No Ray, no storage.

    python tests/bench/gpu_steps.py [--batch-size 32] [--steps 100]

Prints a JSON line for each way, with the images/s of four rounds; the first minutes compile. The ceilings beside
them are computed from the network's multiplications for an H100: 6,600 images/s in training, 28,000 in prediction.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable

import numpy as np
import torch

from covseg_ray.config import Job, load
from covseg_ray.engine.initial import initial_network
from covseg_ray.engine.learner import Learner, build_learner, make_fast
from covseg_ray.segmentation.augment import augment, augmentation
from covseg_ray.segmentation.bundle import Bundle, BundleSpec
from covseg_ray.segmentation.decision import most_probable
from covseg_ray.segmentation.predictor import Predictor

SIDE, FILMS, ROUNDS, WARM_UPS = 256, 2048, 4, 6
TRAINING, PREDICTION = 6600, 28000
GPU = torch.device("cuda", 0)
RECIPE = ("train.loss=cross-entropy+film-jaccard", "train.optimizer=adamw", "train.average=0.99")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--steps", type=int, default=100)
    options = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("gpu_steps.py: no GPU here")
    make_fast(GPU, 1)
    films_NHW = np.random.default_rng(0).integers(0, 256, (FILMS, SIDE, SIDE), dtype=np.uint8)
    job = load(None, [*RECIPE, "model.encoder_weights=none", 'model.classes=["background","lung","infection"]'])
    images_NHW = torch.from_numpy(films_NHW[: options.batch_size]).to(GPU)
    for name, compiled in (("kernel by kernel", "no"), ("compiled, in CUDA graphs", "yes")):
        learner = learner_of(job, compiled)
        tell(f"training, {name}", TRAINING, training(learner, images_NHW, options.steps))
        whole = training(learner, images_NHW, options.steps, augmented=True)
        tell(f"training, {name}, with augmentation and counts", TRAINING, whole)
    tell("prediction, bf16", PREDICTION, prediction(job, films_NHW))


def tell(what: str, ceiling: int, rates: list[float]) -> None:
    share = round(sorted(rates)[len(rates) // 2] / ceiling, 3)
    print(json.dumps({"what": what, "images_per_second": [round(r) for r in rates], "of_ceiling": share}), flush=True)


def learner_of(job: Job, compiled: str) -> Learner:
    train = job.train.model_copy(update={"compile": compiled})
    state = initial_network(job).state_dict()
    learner = build_learner(job.model_copy(update={"train": train}), 100_000, state, GPU, wrap=lambda module: module)
    learner.network.train()
    return learner


def training(learner: Learner, images_NHW: torch.Tensor, steps: int, augmented: bool = False) -> list[float]:
    """A rate a round, of steps on one batch; with what an epoch does besides, if wanted."""
    targets_NHW, recipe = images_NHW % 3, augmentation("chest")

    def step(number: int) -> torch.Tensor:
        if not augmented:
            return learner.step(images_NHW, targets_NHW)[1]
        films_NHW, truth_NHW = augment(images_NHW, targets_NHW, recipe, number)
        logits_NCHW, loss = learner.step(films_NHW, truth_NHW)
        found_NHW, true_NHW = most_probable(logits_NCHW) == 2, truth_NHW == 2
        torch.stack([(found_NHW & true_NHW).sum(), (found_NHW | true_NHW).sum()])
        return loss

    return timed(step, steps, len(images_NHW))


def timed(step: Callable[[int], torch.Tensor], steps: int, films: int) -> list[float]:
    for number in range(WARM_UPS):
        float(step(number))
    rates = []
    for _ in range(ROUNDS):
        begin = time.perf_counter()
        for number in range(steps):
            loss = step(number)
        float(loss)
        rates.append(steps * films / (time.perf_counter() - begin))
    return rates


def prediction(job: Job, films_NHW: np.ndarray) -> list[float]:
    """A rate a round, from films in this machine's memory to classes there."""
    spec = BundleSpec(architecture="unet", encoder="resnet34", input_size=SIDE, classes=job.model.classes)
    predictor = Predictor(Bundle(spec, initial_network(job).state_dict()), "cuda", "bf16")
    predictor.predict(films_NHW[:256])
    rates = []
    for _ in range(ROUNDS):
        begin = time.perf_counter()
        predictor.predict(films_NHW)
        rates.append(len(films_NHW) / (time.perf_counter() - begin))
    return rates


if __name__ == "__main__":
    main()

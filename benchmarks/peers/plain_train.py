"""The loop a user would write in one script: films in memory, no Ray. The yardstick for ``covseg-ray train``.

    python benchmarks/peers/plain_train.py FILMS [--epochs 14] [--labels COVID-19] [--steps N]

FILMS is the folder "Infection Segmentation Data". bf16 autocast, channels_last, flips, focal + Jaccard, Adam with a
one-cycle rate of 0.001, batch 32, random weights. Prints one JSON line an epoch.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

library = torch.library.Library("torchvision", "FRAGMENT")
for operator in ("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
                 "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"):  # fmt: skip
    if not hasattr(torch.ops.torchvision, operator.split("(")[0]):
        library.define(operator)

import segmentation_models_pytorch as smp  # noqa: E402


def read(films: Path, split: str, labels: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
    images, masks = [], []
    for label in labels:
        for path in sorted((films / split / label / "images").glob("*.png")):
            images.append(np.asarray(Image.open(path).convert("L")))
            masks.append(np.asarray(Image.open(path.parents[1] / "infection masks" / path.name).convert("L")) > 127)
    return torch.from_numpy(np.stack(images)), torch.from_numpy(np.stack(masks))


def normalise(images: torch.Tensor) -> torch.Tensor:
    low, high = images.amin((1, 2), keepdim=True).float(), images.amax((1, 2), keepdim=True).float()
    grey = (images - low) / (high - low).clamp(min=1)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    x = (grey[:, None] - mean[None, :, None, None]) / std[None, :, None, None]
    return x.contiguous(memory_format=torch.channels_last)


def flip(images: torch.Tensor, masks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    for axis in (1, 2):
        chosen = torch.rand(len(images)) < 0.5
        images[chosen], masks[chosen] = images[chosen].flip(axis), masks[chosen].flip(axis)
    return images, masks


def validate(model: torch.nn.Module, images: torch.Tensor, masks: torch.Tensor) -> dict[str, float]:
    model.eval()
    predicted = []
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        for start in range(0, len(images), 32):
            predicted.append(model(normalise(images[start : start + 32])).argmax(1) == 1)
    found = torch.cat(predicted)
    inter, union = (found & masks).sum((1, 2)).double(), (found | masks).sum((1, 2)).double()
    empty_inter, empty_union = (~found & ~masks).sum((1, 2)).double(), (~found | ~masks).sum((1, 2)).double()
    two_class = []
    for s in range(0, len(images), 32):
        ill = inter[s : s + 32].sum() / union[s : s + 32].sum()
        well = empty_inter[s : s + 32].sum() / empty_union[s : s + 32].sum()
        two_class.append((ill + well) / 2)
    return {"iou_pooled": float(inter.sum() / union.sum()), "iou_two_class": float(torch.stack(two_class).mean())}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("films", type=Path)
    parser.add_argument("--epochs", type=int, default=14)
    parser.add_argument("--labels", default="COVID-19")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--rate", type=float, default=0.001)
    parser.add_argument("--decay", type=float, default=0.0)
    parser.add_argument("--steps", type=int, help="only so many steps an epoch, for timing")
    options = parser.parse_args()
    torch.manual_seed(0)
    images, masks = read(options.films, "Train", options.labels.split(","))
    val_images, val_masks = read(options.films, "Val", options.labels.split(","))
    model = smp.Unet("resnet34", encoder_weights=None, classes=2).to(memory_format=torch.channels_last)
    focal, jaccard = smp.losses.FocalLoss("multiclass", gamma=2.0), smp.losses.JaccardLoss("multiclass")
    optimizer = torch.optim.AdamW(model.parameters(), options.rate, weight_decay=options.decay, fused=True)
    steps = options.steps or len(images) // options.batch_size
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, options.rate, total_steps=options.epochs * steps)
    for epoch in range(1, options.epochs + 1):
        begin, total = time.perf_counter(), 0.0
        model.train()
        order = torch.randperm(len(images))
        for step in range(steps):
            chosen = order[step * options.batch_size : (step + 1) * options.batch_size]
            x, y = flip(images[chosen], masks[chosen])
            with torch.autocast("cpu", torch.bfloat16):
                logits = model(normalise(x))
            loss = focal(logits.float(), y.long()) + jaccard(logits.float(), y.long())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item()
        trained = time.perf_counter() - begin
        scores = validate(model, val_images, val_masks)
        seconds = time.perf_counter() - begin
        speed = {
            "train_seconds": trained,
            "seconds": seconds,
            "images_per_second": steps * options.batch_size / trained,
        }
        record = {"epoch": epoch, "loss": total / steps, **speed, **scores}
        print(json.dumps(record), flush=True)


if __name__ == "__main__":
    main()

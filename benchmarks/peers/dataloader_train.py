"""Training as one writes it with PyTorch: a Dataset of PNG files, a DataLoader with its workers, DDP under torchrun.

    python benchmarks/peers/dataloader_train.py FOLDER [--recipe defaults] [--steps 6]
    torchrun --nproc-per-node 2 benchmarks/peers/dataloader_train.py FOLDER ...

FOLDER holds ``images/*.png`` and ``masks/*.png`` of the same names. ``defaults`` is fp32 and NCHW; ``tuned`` is
channels_last, and bf16 autocast where covseg-ray's own is. Flips, focal + Jaccard, Adam at 0.001, batch 32 over all
processes, random weights. Prints a JSON line after the first step, and one with the images/s of the others.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from PIL import Image
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from covseg_ray.segmentation.network.precision import autocast
from covseg_ray.segmentation.network.torchvision_operators import smp as library

Pair = tuple[torch.Tensor, torch.Tensor]
MEAN, STD = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
smp = library()  # segmentation_models_pytorch, importable beside a CPU build of torch too


class Films(Dataset[Pair]):
    def __init__(self, folder: Path) -> None:
        self.paths = sorted((folder / "images").glob("*.png"))
        self.masks = folder / "masks"

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Pair:
        path = self.paths[index]
        grey = torch.from_numpy(np.array(Image.open(path).convert("L"))).float()
        mask = torch.from_numpy(np.array(Image.open(self.masks / path.name).convert("L")) > 127).long()
        grey = (grey - grey.min()) / (grey.max() - grey.min()).clamp(min=1)
        image = (grey[None] - MEAN[:, None, None]) / STD[:, None, None]
        for axis in (-1, -2):
            if torch.rand(()) < 0.5:
                image, mask = image.flip(axis), mask.flip(axis)
        return image, mask


def batches(films: Films, batch: int, workers: int, world: int) -> Iterator[Pair]:
    """Without end, epoch after epoch."""
    sampler = DistributedSampler(films, drop_last=True) if world > 1 else None
    loader = DataLoader(
        films, batch // world, shuffle=sampler is None, sampler=sampler, num_workers=workers, drop_last=True
    )
    epoch = 0
    while True:
        if sampler:
            sampler.set_epoch(epoch)
        yield from loader
        epoch += 1


def train(options: argparse.Namespace, rank: int, world: int) -> float:
    """Images a second of all processes together, the first step left out."""
    torch.manual_seed(0)
    tuned = options.recipe == "tuned"
    network = smp.Unet("resnet34", encoder_weights=None, classes=2)
    if tuned:
        network = network.to(memory_format=torch.channels_last)
    model = DistributedDataParallel(network) if world > 1 else network
    focal, jaccard = smp.losses.FocalLoss("multiclass", gamma=2.0), smp.losses.JaccardLoss("multiclass")
    optimizer = torch.optim.Adam(model.parameters(), lr=0.001)
    feed = batches(Films(options.films), options.batch_size, options.workers, world)
    begin = 0.0
    for step in range(options.steps + 1):
        images, masks = next(feed)
        if tuned:
            images = images.contiguous(memory_format=torch.channels_last)
        with autocast(torch.device("cpu"), "auto" if tuned else "fp32"):
            logits = model(images).float()
        loss = focal(logits, masks) + jaccard(logits, masks)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step == 0:
            begin = time.perf_counter()
            if rank == 0:
                print(json.dumps({"first_loss": loss.item()}), flush=True)
    return options.steps * options.batch_size / (time.perf_counter() - begin)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("films", type=Path)
    parser.add_argument("--recipe", choices=("defaults", "tuned"), default="defaults")
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--workers", type=int, default=2, help="of each process's DataLoader")
    options = parser.parse_args()
    world, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    if world > 1:
        dist.init_process_group("gloo")
    rate = train(options, rank, world)
    if rank == 0:
        print(json.dumps({"images_per_second": rate}), flush=True)
    if world > 1:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()

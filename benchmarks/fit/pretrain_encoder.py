"""Weights for an encoder from the films themselves, for `model.encoder_weights`, where ImageNet's cannot be had.

    python benchmarks/fit/pretrain_encoder.py DATASET OUT.safetensors --by labels|restoring [--encoder resnet34]
        [--epochs 5] [--batch 32] [--threads 1]

`labels`: tell COVID-19, Non-COVID and Normal films apart by the mean of the deepest features. `restoring`, without any
label or mask: give back films from which squares were cut out (context encoders, Pathak et al. 2016,
https://arxiv.org/abs/1604.07379), through a U-Net whose decoder is thrown away. Split train of a packed dataset; AdamW,
one-cycle rate of 0.001, augmentation `chest`, as the recipe. Prints a JSON line an epoch, on films of split val too.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from covseg_ray.segmentation.network.build import build_network, channels_last
from covseg_ray.segmentation.network.precision import autocast
from covseg_ray.segmentation.network.preprocess import Preprocess
from covseg_ray.segmentation.training.augment import AUGMENTATIONS, augment
from covseg_ray.storage.datasets.read import list_units, read_unit

RATE, DECAY = 0.001, 0.01
CUT = 8  # squares of an eighth of a film's side; half of them are cut out
CPU = torch.device("cpu")


class ByLabels(nn.Module):
    """How far an encoder is from telling the films' labels."""

    def __init__(self, network: nn.Module, labels: int) -> None:
        super().__init__()
        self.encoder = network.get_submodule("encoder")
        self.tell = nn.LazyLinear(labels)

    def forward(self, films_NHW: Tensor, labels_N: Tensor) -> Tensor:
        deepest_NCHW = self.encoder(Preprocess()(films_NHW))[-1].float()
        return F.cross_entropy(self.tell(deepest_NCHW.mean((2, 3))), labels_N)


class ByRestoring(nn.Module):
    """How far a network is from giving back what was cut out of films: mean squared error, in grey values of 0 to 1."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, films_NHW: Tensor, labels_N: Tensor) -> Tensor:
        cut_NHW = squares(films_NHW.shape)
        restored_NHW = self.network(Preprocess()(films_NHW.masked_fill(cut_NHW, 0)))[:, 0].float()
        return ((restored_NHW - films_NHW.float() / 255)[cut_NHW] ** 2).mean()


def squares(shape_NHW: torch.Size) -> Tensor:
    """Bool: half of the squares of each film, drawn by torch's random numbers."""
    count, height, width = shape_NHW
    drawn_N1HW = torch.rand(count, 1, CUT, CUT)
    return F.interpolate(drawn_N1HW, (height, width), mode="nearest")[:, 0] < 0.5


def read_split(dataset: str, split: str) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    units = [read_unit(dataset, unit) for unit in list_units(dataset, split)]
    labels = [label for unit in units for label in unit.labels]
    _, numbers_N = np.unique(labels, return_inverse=True)
    return np.concatenate([unit.images_NHW for unit in units]), numbers_N.astype(np.int64)


def batches(images_NHW: Tensor, labels_N: Tensor, size: int, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
    order_N = torch.randperm(len(images_NHW), generator=torch.Generator().manual_seed(epoch))
    for step, rows in enumerate(order_N.split(size)[: len(images_NHW) // size]):
        films_NHW = images_NHW[rows]
        yield augment(films_NHW, films_NHW, AUGMENTATIONS["chest"], 1_000 * epoch + step)[0], labels_N[rows]


def pretrain(given: argparse.Namespace) -> None:
    torch.manual_seed(0)
    torch.set_num_threads(given.threads)
    torch.set_flush_denormal(True)
    (images_NHW, labels_N), held_out = (
        [torch.from_numpy(each) for each in read_split(given.dataset, split)] for split in ("train", "val")
    )
    network = channels_last(build_network("unet", given.encoder, "none", 1))
    task = ByLabels(network, int(labels_N.max()) + 1) if given.by == "labels" else ByRestoring(network)
    task(images_NHW[:2], labels_N[:2])  # the last layer learns its width
    optimizer = torch.optim.AdamW(task.parameters(), lr=RATE, weight_decay=DECAY, fused=True)
    steps = given.epochs * (len(images_NHW) // given.batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, steps)
    for epoch in range(1, given.epochs + 1):
        begin, total, count = time.perf_counter(), 0.0, 0
        task.train()
        for films_NHW, its_labels_N in batches(images_NHW, labels_N, given.batch, epoch):
            with autocast(CPU):
                loss = task(films_NHW, its_labels_N)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total, count = total + float(loss.detach()), count + 1
        record = {"epoch": epoch, "loss": total / count, "val_loss": held_out_loss(task, *held_out)}
        print(json.dumps(record | {"seconds": time.perf_counter() - begin}), flush=True)
    save_file({name: tensor.contiguous() for name, tensor in network.encoder.state_dict().items()}, given.out)


def held_out_loss(task: nn.Module, images_NHW: Tensor, labels_N: Tensor) -> float:
    task.eval()
    with torch.inference_mode(), autocast(CPU):
        losses = [task(*part) for part in zip(images_NHW.split(32), labels_N.split(32), strict=True)]
    return float(torch.stack(losses).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset")
    parser.add_argument("out", type=Path)
    parser.add_argument("--by", choices=("labels", "restoring"), required=True)
    parser.add_argument("--encoder", default="resnet34")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--threads", type=int, default=1)
    pretrain(parser.parse_args())


if __name__ == "__main__":
    main()

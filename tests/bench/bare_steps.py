"""Steps of the same training on tensors in memory: plain PyTorch, a process a worker, no Ray. What the machine can do.

    python tests/bench/bare_steps.py [--workers 2] [--threads 1] [--batch-size 32] [--steps 8] [--size 256]

Prints one JSON line: the images/s of all workers together, the first step left out.
"""

from __future__ import annotations

import argparse
import json
import os
import time

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from covseg_ray.segmentation.losses import build_loss
from covseg_ray.segmentation.network import build_network, channels_last
from covseg_ray.segmentation.precision import autocast
from covseg_ray.segmentation.preprocess import Preprocess


def run(rank: int, options: argparse.Namespace) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(options.port)}
    dist.init_process_group("gloo", rank=rank, world_size=options.workers)
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    network = channels_last(build_network("unet", options.encoder, "none", 2))
    model = DistributedDataParallel(network, gradient_as_bucket_view=True) if options.workers > 1 else network
    optimizer = torch.optim.Adam(network.parameters(), lr=0.001, fused=True)
    preprocess, loss_of, device = Preprocess(), build_loss("focal+jaccard"), torch.device("cpu")
    share = options.batch_size // options.workers
    images_NHW = torch.randint(0, 256, (share, options.size, options.size), dtype=torch.uint8)
    targets_NHW = torch.randint(0, 2, (share, options.size, options.size))
    begin = 0.0
    for step in range(options.steps + 1):
        if step == 1:
            begin = time.perf_counter()
        with autocast(device):
            logits_NCHW = model(preprocess(images_NHW)).float()
        loss = loss_of(logits_NCHW, targets_NHW)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    dist.barrier()
    if rank == 0:
        rate = options.steps * options.batch_size / (time.perf_counter() - begin)
        print(json.dumps({"images_per_second": rate}), flush=True)
    dist.destroy_process_group()


def main() -> None:
    parser = argparse.ArgumentParser()
    for name, default in (
        ("workers", 2),
        ("threads", 1),
        ("batch-size", 32),
        ("steps", 8),
        ("size", 256),
        ("port", 29533),
    ):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--encoder", default="resnet34")
    options = parser.parse_args()
    torch.multiprocessing.spawn(run, (options,), nprocs=options.workers)


if __name__ == "__main__":
    main()

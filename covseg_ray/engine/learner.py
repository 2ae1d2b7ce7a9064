"""One worker's network, loss and optimizer: a step, a validation loss, and its state for a checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import ray.train.torch
import torch
from torch import Tensor, nn

from covseg_ray.config import Job
from covseg_ray.config import Train as TrainConfig
from covseg_ray.segmentation.losses import build_loss
from covseg_ray.segmentation.network import build_network, channels_last
from covseg_ray.segmentation.precision import autocast
from covseg_ray.segmentation.preprocess import Preprocess


@dataclass
class Learner:
    """``wrapped`` is ``network`` as the data-parallel library trains it."""

    network: nn.Module
    wrapped: nn.Module
    preprocess: Preprocess
    loss: nn.Module
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler
    device: torch.device
    precision: str

    def step(self, images_NHW: Tensor, targets_NHW: Tensor, weight: float = 1.0) -> tuple[Tensor, Tensor]:
        """One optimizer step on uint8 films and uint8 class indices; ``logits_NCHW`` and the loss, on the device.
        ``weight`` multiplies the loss: gradients are averaged over workers whose shares of a batch may differ."""
        logits_NCHW, loss = self.forward_loss(images_NHW, targets_NHW)
        loss = weight * loss
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.schedule.step()
        return logits_NCHW.detach(), loss.detach()

    def forward_loss(self, images_NHW: Tensor, targets_NHW: Tensor) -> tuple[Tensor, Tensor]:
        """``logits_NCHW`` float32 and the loss."""
        network = self.wrapped if self.network.training else self.network
        with autocast(self.device, self.precision):
            logits_NCHW = network(self.preprocess(images_NHW)).float()
        loss: Tensor = self.loss(logits_NCHW, targets_NHW.long())
        return logits_NCHW, loss

    def state(self) -> dict[str, Any]:
        return {
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
        }

    def load(self, state: dict[str, Any]) -> None:
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])


def build_learner(job: Job, steps: int, initial: dict[str, Tensor], device: torch.device) -> Learner:
    """The learner of this worker at the beginning of a run of ``steps`` an epoch."""
    network = build_network(job.model.architecture, job.model.encoder, "none", len(job.model.classes))
    network.load_state_dict(initial)
    network = channels_last(network).to(device)
    wrapped = ray.train.torch.prepare_model(network, parallel_strategy_kwargs={"gradient_as_bucket_view": True})
    optimizer = build_optimizer(job.train, network)
    return Learner(
        network=network,
        wrapped=wrapped,
        preprocess=Preprocess().to(device),
        loss=build_loss(job.train.loss).to(device),
        optimizer=optimizer,
        schedule=build_schedule(job.train, optimizer, steps),
        device=device,
        precision=job.train.precision,
    )


def build_optimizer(config: TrainConfig, network: nn.Module) -> torch.optim.Optimizer:
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[config.optimizer]
    return kind(network.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay, fused=True)


def build_schedule(
    config: TrainConfig, optimizer: torch.optim.Optimizer, steps: int
) -> torch.optim.lr_scheduler.LRScheduler:
    if config.schedule == "one-cycle":
        return torch.optim.lr_scheduler.OneCycleLR(
            optimizer, max_lr=config.learning_rate, total_steps=config.epochs * steps
        )
    return torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0)

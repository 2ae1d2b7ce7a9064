"""One worker's network, loss and optimizer: a step, a validation loss, and its state for a checkpoint."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import ray.train.torch
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from covseg_ray.config import Job
from covseg_ray.config import Train as TrainConfig
from covseg_ray.segmentation.losses import build_loss
from covseg_ray.segmentation.network import build_network, channels_last
from covseg_ray.segmentation.precision import autocast
from covseg_ray.segmentation.preprocess import Preprocess


@dataclass
class Learner:
    """``wrapped`` is ``network`` as the data-parallel library trains it. ``averaged``, where the job wants one, is the
    moving average of its weights, and then what is validated and kept."""

    network: nn.Module
    wrapped: nn.Module
    preprocess: Preprocess
    loss: nn.Module
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler
    device: torch.device
    precision: str
    averaged: AveragedModel | None = None

    @property
    def kept(self) -> nn.Module:
        """The network that is validated and becomes the bundle."""
        return self.averaged.module if self.averaged else self.network

    def step(self, images_NHW: Tensor, targets_NHW: Tensor, weight: float = 1.0) -> tuple[Tensor, Tensor]:
        """One optimizer step on uint8 films and uint8 class indices; ``logits_NCHW`` and the loss, on the device.
        ``weight`` multiplies the loss: gradients are averaged over workers whose shares of a batch may differ."""
        logits_NCHW, loss = self.forward_loss(images_NHW, targets_NHW)
        loss = weight * loss
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.schedule.step()
        if self.averaged:
            self.averaged.update_parameters(self.network)
        return logits_NCHW.detach(), loss.detach()

    def forward_loss(self, images_NHW: Tensor, targets_NHW: Tensor) -> tuple[Tensor, Tensor]:
        """``logits_NCHW`` float32 and the loss; of the kept network where it is not training."""
        network = self.wrapped if self.network.training else self.kept
        with autocast(self.device, self.precision):
            logits_NCHW = network(self.preprocess(images_NHW)).float()
        loss: Tensor = self.loss(logits_NCHW, targets_NHW.long())
        return logits_NCHW, loss

    def state(self) -> dict[str, Any]:
        return {name: part.state_dict() for name, part in self._parts().items()} | {"kept": self.kept.state_dict()}

    def load(self, state: dict[str, Any]) -> None:
        for name, part in self._parts().items():
            part.load_state_dict(state[name])

    def _parts(self) -> dict[str, Any]:
        parts = {"network": self.network, "optimizer": self.optimizer, "schedule": self.schedule}
        return parts | ({"averaged": self.averaged} if self.averaged else {})


def data_parallel(network: nn.Module) -> nn.Module:
    """The network as Ray Train's workers share its gradients."""
    wrapped: nn.Module = ray.train.torch.prepare_model(
        network, parallel_strategy_kwargs={"gradient_as_bucket_view": True}
    )
    return wrapped


def build_learner(
    job: Job,
    steps: int,
    initial: dict[str, Tensor],
    device: torch.device,
    wrap: Callable[[nn.Module], nn.Module] = data_parallel,
) -> Learner:
    """The learner of this worker at the beginning of a run of ``steps`` an epoch."""
    network = build_network(job.model.architecture, job.model.encoder, "none", len(job.model.classes))
    network.load_state_dict(initial)
    network = channels_last(network).to(device)
    stepped: Any = torch.compile(network) if compiles(job.train.compile, device) else network  # shares its weights
    wrapped = wrap(stepped)
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
        averaged=average(network, job.train.average) if job.train.average else None,
    )


def compiles(choice: str, device: torch.device) -> bool:
    """Whether training steps are compiled: as chosen, or on a GPU where there is what makes its kernels."""
    if choice != "auto":
        return choice == "yes"
    compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    return device.type == "cuda" and find_spec("triton") is not None and compiler is not None


def average(network: nn.Module, decay: float) -> AveragedModel:
    """A moving average of the network's weights and of its batch statistics, ``decay`` of it kept at each step."""
    return AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)


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

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

from covseg_ray.config.train import Job
from covseg_ray.config.train import Train as TrainConfig
from covseg_ray.segmentation.network.build import build_network, channels_last
from covseg_ray.segmentation.network.precision import autocast
from covseg_ray.segmentation.network.preprocess import Preprocess
from covseg_ray.segmentation.training.ema import Averaged
from covseg_ray.segmentation.training.losses import build_loss, soft_loss

# torch's name for CUDA graphs: kernels that are launched one by one leave a GPU idle half of the time.
COMPILED = "reduce-overhead"


class WithLoss(nn.Module):
    """From films to the loss in one module, so that a compiler sees the whole step: uint8 ``images_NHW`` and class
    indices to ``logits_NCHW`` float32 and the loss. With teachers' maps, `soft_loss` is ``soft`` of the loss."""

    def __init__(
        self, network: nn.Module, loss: nn.Module, device: torch.device, precision: str, soft: float = 0.0
    ) -> None:
        super().__init__()
        self.preprocess, self.network, self.loss = Preprocess().to(device), network, loss
        self.device, self.precision, self.soft = device, precision, soft

    def forward(
        self, images_NHW: Tensor, targets_NHW: Tensor, maps_NCHW: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        with autocast(self.device, self.precision):
            logits_NCHW = self.network(self.preprocess(images_NHW)).float()
        loss = self.loss(logits_NCHW, targets_NHW.long())
        if maps_NCHW is not None:
            loss = (1 - self.soft) * loss + self.soft * soft_loss(logits_NCHW, maps_NCHW)
        return logits_NCHW, loss


@dataclass
class Learner:
    """``trained`` is ``network`` with its loss, wrapped for data parallelism; ``validated`` the one that is validated
    and becomes the bundle: that of ``averaged``, the moving average of the weights, where the job has one."""

    network: nn.Module
    trained: nn.Module
    validated: WithLoss
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler
    device: torch.device
    averaged: Averaged | None = None

    @property
    def kept(self) -> nn.Module:
        """The network that becomes the bundle."""
        return self.validated.network

    def step(
        self, images_NHW: Tensor, targets_NHW: Tensor, maps_NCHW: Tensor | None = None, weight: float = 1.0
    ) -> tuple[Tensor, Tensor]:
        """One optimizer step on uint8 films, uint8 class indices and, if there are teachers, their maps;
        ``logits_NCHW`` and the loss, on the device, until the next. ``weight`` multiplies the loss: gradients are
        averaged over workers whose shares of a batch may differ."""
        self.optimizer.zero_grad()
        logits_NCHW, loss = self.trained(images_NHW, targets_NHW, maps_NCHW)
        loss = weight * loss
        loss.backward()
        self.optimizer.step()
        self.schedule.step()
        if self.averaged:
            self.averaged.update()
        return logits_NCHW.detach(), loss.detach()

    def state(self) -> dict[str, Any]:
        return {name: part.state_dict() for name, part in self._parts().items()} | {"kept": self.kept.state_dict()}

    def load(self, state: dict[str, Any]) -> None:
        for name, part in self._parts().items():
            part.load_state_dict(state[name])

    def _parts(self) -> dict[str, Any]:
        parts = {"network": self.network, "optimizer": self.optimizer, "schedule": self.schedule}
        return parts | ({"averaged": self.averaged} if self.averaged else {})


def data_parallel(network: nn.Module) -> nn.Module:
    """The network wrapped by Ray Train for data parallelism."""
    return ray.train.torch.prepare_model(network, parallel_strategy_kwargs={"gradient_as_bucket_view": True})


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
    averaged = Averaged(network, job.train.average) if job.train.average else None
    loss = build_loss(job.train.loss).to(device)
    trained: Any = WithLoss(network, loss, device, job.train.precision, job.train.soft)
    if compiles(job.train.compile, device):
        trained = torch.compile(trained, mode=COMPILED)
    optimizer = build_optimizer(job.train, network)
    return Learner(
        network=network,
        trained=wrap(trained),
        validated=WithLoss(averaged.module if averaged else network, loss, device, job.train.precision),
        optimizer=optimizer,
        schedule=build_schedule(job.train, optimizer, steps),
        device=device,
        averaged=averaged,
    )


def configure_torch(device: torch.device, threads: int) -> None:
    """Set torch up for training on batches of one shape."""
    if device.type == "cpu":
        torch.set_flush_denormal(True)  # a CPU computes slowly with denormal numbers
        torch.set_num_threads(max(1, threads))
    torch.backends.cudnn.benchmark = True


def compiles(choice: str, device: torch.device) -> bool:
    """Whether training steps are compiled: as chosen, or with ``auto`` on a GPU where Triton and a C compiler exist."""
    if choice != "auto":
        return choice == "yes"
    compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    return device.type == "cuda" and find_spec("triton") is not None and compiler is not None


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

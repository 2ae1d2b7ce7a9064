"""A moving average of a network's weights while it trains."""

from __future__ import annotations

from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


class Averaged(nn.Module):
    """``module``: of the weights and batch statistics that ``network`` had after each step, ``decay`` of the average
    kept at each; after the first step those of that step.

    ``torch.optim.swa_utils.AveragedModel`` without its wait for the device at each step: it sends the count of steps.
    """

    steps: Tensor

    def __init__(self, network: nn.Module, decay: float) -> None:
        super().__init__()
        self.module = deepcopy(network)
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))  # stays on the CPU, where it is asked for
        self._move = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
        tensors = zip(network.state_dict(keep_vars=True).values(), self.module.state_dict().values(), strict=True)
        pairs = [(now.detach(), kept) for now, kept in tensors]  # loading a state writes into these same tensors
        self._all_now, self._all = [now for now, _ in pairs], [kept for _, kept in pairs]
        self._moving_now = [now for now in self._all_now if now.is_floating_point()]
        self._moving = [kept for kept in self._all if kept.is_floating_point()]

    def update(self) -> None:
        """After a step of the network."""
        with torch.no_grad():
            if int(self.steps) == 0:
                torch._foreach_copy_(self._all, self._all_now)
            else:
                self._move(self._moving, self._moving_now, 0)
        self.steps += 1

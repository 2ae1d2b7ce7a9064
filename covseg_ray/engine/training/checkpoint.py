"""A run's checkpoints: copied between two epochs, written and uploaded while the next one trains."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any

import ray.train
import torch
from ray.train import Checkpoint, CheckpointUploadMode

from covseg_ray.engine.training.learner import Learner

STATE_FILE = "state.pt"
# How long an epoch's end waits for the checkpoint before: Ray Train skips a report while it replaces a lost worker.
WAIT_SECONDS = 60.0

Record = dict[str, float]  # of an epoch


class Checkpoints:
    """One worker's part in its run's checkpoints: the first worker writes them.

    One is under way at a time. Where storage is slower than training, the next epoch's end waits for it, a minute at
    most: copies of the state do not pile up."""

    def __init__(self, learner: Learner) -> None:
        self.learner = learner
        self._written = Event()
        self._written.set()

    def restore(self) -> list[Record]:
        """Load the run's last committed checkpoint, if it has one; returns the records of the finished epochs."""
        checkpoint = ray.train.get_checkpoint()
        if checkpoint is None:
            return []
        with checkpoint.as_directory() as folder:
            state = torch.load(Path(folder, STATE_FILE), map_location=self.learner.device, weights_only=True)
        history: list[Record] = state.pop("history")
        self.learner.load(state)
        return history

    def commit(self, history: list[Record]) -> None:
        """Hand Ray Train the checkpoint of the last epoch in the history."""
        context = ray.train.get_context()
        if context.get_world_rank() > 0:
            ray.train.report(history[-1], checkpoint_upload_mode=CheckpointUploadMode.ASYNC)
            return
        self._written.wait(WAIT_SECONDS)
        self._written = Event()
        state = on_cpu({"history": history, **self.learner.state()})
        ray.train.report(
            history[-1],
            checkpoint=Checkpoint.from_directory(tempfile.mkdtemp(prefix="covseg-ray-checkpoint-")),
            checkpoint_dir_name=f"epoch-{len(history):04d}",
            checkpoint_upload_mode=CheckpointUploadMode.ASYNC,
            checkpoint_upload_fn=partial(write, state, self._written, context.get_storage().persist_current_checkpoint),
        )


def write(
    state: Any, written: Event, persist: Callable[[Checkpoint, str], Checkpoint], checkpoint: Checkpoint, name: str
) -> Checkpoint:
    """Called on a thread of Ray's, which then removes the checkpoint's own folder."""
    try:
        torch.save(state, Path(checkpoint.path, STATE_FILE))
        return persist(checkpoint, name)
    finally:
        written.set()


def on_cpu(state: Any) -> Any:
    """A deep copy on the CPU; tensors that share memory share it in the copy."""
    copies: dict[tuple[int, torch.Size], torch.Tensor] = {}

    def copied(part: Any) -> Any:
        if isinstance(part, torch.Tensor):
            key = (part.data_ptr(), part.shape)
            if key not in copies:
                copies[key] = part.detach().to("cpu", copy=True)
            return copies[key]
        if isinstance(part, dict):
            return {name: copied(each) for name, each in part.items()}
        if isinstance(part, list):
            return [copied(each) for each in part]
        return part

    return copied(state)

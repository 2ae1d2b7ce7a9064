"""What a checkpoint holds, and that writing it keeps no epoch waiting but the one after the next."""

from __future__ import annotations

from pathlib import Path
from threading import Event, Thread
from types import SimpleNamespace
from typing import Any

import pytest
import ray.train
import torch

from covseg_ray.engine.training.checkpoint import STATE_FILE, Checkpoints, on_cpu


def test_a_copy_is_left_alone_and_a_tensor_there_twice_stays_one():
    weights, steps = torch.arange(6.0).reshape(2, 3), torch.tensor(4)
    state = {"network": {"w": weights}, "kept": {"w": weights.detach()}, "state": [{"step": steps}], "epoch": 7}
    copy = on_cpu(state)
    weights += 1
    steps += 1
    assert torch.equal(copy["network"]["w"], torch.arange(6.0).reshape(2, 3))
    assert copy["kept"]["w"] is copy["network"]["w"]
    assert (int(copy["state"][0]["step"]), copy["epoch"]) == (4, 7)


class Run:
    """Ray Train, of one worker: what is reported is uploaded on a thread as soon as ``let`` says."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.let, self.threads = folder, Event(), list[Thread]()

    def get_world_rank(self) -> int:
        return 0

    def get_storage(self) -> SimpleNamespace:
        return SimpleNamespace(persist_current_checkpoint=self.persist)

    def persist(self, checkpoint: ray.train.Checkpoint, name: str) -> ray.train.Checkpoint:
        self.let.wait()
        (self.folder / name).write_bytes(Path(checkpoint.path, STATE_FILE).read_bytes())
        return checkpoint

    def report(self, metrics: dict[str, float], **words: Any) -> None:
        given = words["checkpoint"], words["checkpoint_dir_name"]
        self.threads.append(Thread(target=words["checkpoint_upload_fn"], args=given))
        self.threads[-1].start()


class Counting:
    """A learner whose only weight is the number of the epoch."""

    def __init__(self) -> None:
        self.weight = torch.zeros(())

    def state(self) -> dict[str, Any]:
        return {"weight": self.weight}


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    made = Run(tmp_path)
    monkeypatch.setattr(ray.train, "get_context", lambda: made)
    monkeypatch.setattr(ray.train, "report", made.report)
    return made


def checkpoints_of(learner: Any) -> Checkpoints:
    return Checkpoints(learner)


def test_an_epoch_goes_on_while_its_checkpoint_is_written_and_one_at_a_time(run: Run, tmp_path: Path):
    learner = Counting()
    checkpoints = checkpoints_of(learner)
    learner.weight += 1
    checkpoints.commit([{"epoch": 1}])  # comes back although storage holds it up
    learner.weight += 1
    second = Thread(target=checkpoints.commit, args=([{"epoch": 1}, {"epoch": 2}],))
    second.start()
    second.join(0.2)
    assert second.is_alive()
    assert len(run.threads) == 1
    run.let.set()
    second.join(10)
    for each in run.threads:
        each.join(10)
    states = [torch.load(tmp_path / f"epoch-{epoch:04d}", weights_only=True) for epoch in (1, 2)]
    assert [float(state["weight"]) for state in states] == [1, 2]
    assert [len(state["history"]) for state in states] == [1, 2]


def test_after_an_upload_that_failed_the_next_is_not_waited_for(run: Run, monkeypatch: pytest.MonkeyPatch):
    run.folder /= "nowhere"
    run.let.set()
    monkeypatch.setattr("threading.excepthook", lambda _: None)
    checkpoints = checkpoints_of(Counting())
    for epoch in (1, 2):
        checkpoints.commit([{"epoch": 1}] * epoch)
        run.threads[-1].join(10)
    assert len(run.threads) == 2


def test_a_report_that_was_skipped_is_not_waited_for_for_ever(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    run.let.set()
    monkeypatch.setattr("covseg_ray.engine.training.checkpoint.WAIT_SECONDS", 0.2)
    checkpoints = checkpoints_of(Counting())
    with monkeypatch.context() as skipping:
        skipping.setattr(ray.train, "report", lambda *_, **__: None)
        checkpoints.commit([{"epoch": 1}])
    checkpoints.commit([{"epoch": 1}, {"epoch": 2}])
    run.threads[-1].join(10)
    assert [path.name for path in tmp_path.iterdir()] == ["epoch-0002"]

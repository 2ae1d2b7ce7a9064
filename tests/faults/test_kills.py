"""SIGKILL in the middle of an epoch: the same final weights, bit for bit, and no epoch twice."""

from __future__ import annotations

import json
import random
import signal
import time
from pathlib import Path

import pytest
from runs import Command, epochs, same_weights, train_words
from training_runs import Run, run_job

from covseg_ray.errors import BusyError

pytestmark = pytest.mark.timeout(900)  # Ray's start alone takes minutes on a machine that is busy


@pytest.fixture(scope="module")
def job(small_job: list[str]) -> list[str]:
    """With a network whose epochs are long enough to be interrupted."""
    return [*small_job, "model.encoder=resnet18"]


@pytest.fixture(scope="module")
def undisturbed(ray_session: None, job: list[str], tmp_path_factory: pytest.TempPathFactory) -> Run:
    return run_job([*job, f"out={tmp_path_factory.mktemp('undisturbed')}"])


def test_interrupted_killed_and_robbed_of_a_worker_a_run_ends_as_if_undisturbed(
    undisturbed: Run, job: list[str], tmp_path: Path
) -> None:
    settings, folder = [*job, f"out={tmp_path}"], tmp_path / "small"
    with Command(train_words(settings), tmp_path) as command:
        command.await_epoch(folder, 1)
        code, errors = command.interrupt(signal.SIGINT)
        assert code == 130, errors
        assert "Traceback" not in errors
    with Command(train_words(settings), tmp_path) as command:
        command.await_epoch(folder, 2)
    assert not (folder / "bundle").exists()
    assert epochs(folder) < [1, 2, 3, 4]
    with Command(train_words(settings), tmp_path) as command:
        command.await_epoch(folder, 3)
        command.kill_a_trainer()
        with pytest.raises(BusyError, match=f"process {command.process.pid} "):
            run_job(settings)
        code, output, errors = command.finish()
    assert code == 0, errors
    assert json.loads(output)["epochs"] == 4
    assert epochs(folder) == [1, 2, 3, 4]
    assert same_weights(folder, Path(undisturbed.folder))


@pytest.mark.drill
@pytest.mark.timeout(1800)
def test_many_kills_at_random_moments(ray_session: None, job: list[str], tmp_path: Path) -> None:
    """Trainers and whole commands are killed by turns, at moments that the epochs do not choose."""
    settings = [*job, "train.epochs=20", "resources.max_failures=-1"]
    quiet = run_job([*settings, f"out={tmp_path}/quiet"])
    folder, chance = tmp_path / "kills/small", random.Random(0)
    for _ in range(3):
        with Command(train_words([*settings, f"out={tmp_path}/kills"]), tmp_path) as command:
            for kill in (command.kill_a_trainer, command.kill_a_trainer, command.kill):
                command.await_epoch(folder, len(epochs(folder)) + 1)
                time.sleep(chance.uniform(0, 1.5))
                kill()
    with Command(train_words([*settings, f"out={tmp_path}/kills"]), tmp_path) as command:
        code, _, errors = command.finish(600)
    assert code == 0, errors
    assert epochs(folder) == list(range(1, 21))
    assert same_weights(folder, Path(quiet.folder))

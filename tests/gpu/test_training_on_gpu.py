"""Training on a GPU: nothing waits for it inside an epoch, and a compiled step learns what a plain one does. Skipped
without a GPU."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from covseg_ray.cli.main import app
from covseg_ray.config import train as config
from covseg_ray.engine.training.initial import initial_network
from covseg_ray.engine.training.learner import Learner, build_learner
from covseg_ray.engine.training.loader import Batch, to_device
from covseg_ray.radiograph.phantom import make_phantom
from covseg_ray.segmentation.training.archive_changes import change_files
from covseg_ray.segmentation.training.augment import AUGMENTATIONS, augment, augment_maps

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
GPU = torch.device("cuda", 0)
SETTINGS = ["model.encoder=resnet18", "model.encoder_weights=none", "train.average=0.9", "train.learning_rate=0.0001"]


@pytest.fixture
def no_waiting() -> Iterator[None]:
    torch.cuda.set_sync_debug_mode("error")
    yield
    torch.cuda.set_sync_debug_mode("default")


def learner(compile: str) -> Learner:
    job = config.load(None, [*SETTINGS, f"train.compile={compile}"])
    made = build_learner(job, 100, initial_network(job).state_dict(), GPU, wrap=lambda network: network)
    made.network.train()
    return made


def batch(seed: int) -> Batch:
    phantoms = [make_phantom(seed, index, 64) for index in range(8)]
    images_NHW, masks_NHW = (
        torch.from_numpy(np.stack(each)) for each in zip(*((p.image, p.infection) for p in phantoms), strict=True)
    )
    maps_N1HW = torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (8, 1, 64, 64), np.uint8))
    return Batch(1, images_NHW, masks_NHW, torch.arange(8), maps_N1HW)


def step(learner: Learner, number: int) -> torch.Tensor:
    there = to_device(batch(number), GPU)
    films = augment(there.images_NHW, there.targets_NHW, AUGMENTATIONS["chest"], number)
    return learner.step(*films)[1]


def taught_step(learner: Learner, number: int) -> torch.Tensor:
    there = to_device(batch(number), GPU)
    films = augment(there.images_NHW, there.targets_NHW, AUGMENTATIONS["chest"], number)
    assert there.maps_NCHW is not None
    return learner.step(*films, augment_maps(there.maps_NCHW, AUGMENTATIONS["chest"], number))[1]


def test_a_batch_arrives_as_it_was_sent() -> None:
    there = to_device(batch(0), GPU)
    assert there.images_NHW.device == GPU
    assert torch.equal(there.images_NHW.cpu(), batch(0).images_NHW)
    assert torch.equal(there.targets_NHW.cpu(), batch(0).targets_NHW)
    assert there.maps_NCHW is not None
    assert there.maps_NCHW.device == GPU
    assert torch.equal(there.maps_NCHW.cpu(), batch(0).maps_NCHW)


@pytest.mark.parametrize("step", [step, taught_step])
def test_a_step_waits_for_nothing(request: pytest.FixtureRequest, step: Callable[[Learner, int], torch.Tensor]) -> None:
    plain = learner("no")
    step(plain, 0)  # the optimizer makes its state
    request.getfixturevalue("no_waiting")
    total = torch.stack([step(plain, number) for number in range(1, 4)]).sum()
    torch.cuda.set_sync_debug_mode("default")
    assert torch.isfinite(total)


@pytest.mark.parametrize("step", [step, taught_step])
def test_compiled_steps_learn_what_plain_ones_do(step: Callable[[Learner, int], torch.Tensor]) -> None:
    plain, compiled = learner("no"), learner("yes")
    losses = np.array([[float(step(each, number)) for each in (plain, compiled)] for number in range(6)])
    np.testing.assert_allclose(losses[:, 0], losses[:, 1], rtol=0.02)


def test_augmentation_is_the_cpus() -> None:
    here, there = batch(3), to_device(batch(3), GPU)
    for name in ("flips", "paper", "chest", "mild"):
        on_cpu = augment(here.images_NHW, here.targets_NHW, AUGMENTATIONS[name], 5)
        on_gpu = augment(there.images_NHW, there.targets_NHW, AUGMENTATIONS[name], 5)
        assert (on_cpu[0].int() - on_gpu[0].cpu().int()).abs().max() <= 1
        assert (on_cpu[1] == on_gpu[1].cpu()).float().mean() > 0.999


def test_archive_changes_are_the_cpus() -> None:
    here, there = batch(3), to_device(batch(3), GPU)
    on_cpu, on_gpu = change_files(here.images_NHW, 5), change_files(there.images_NHW, 5)
    differences = (on_cpu.int() - on_gpu.cpu().int()).abs().float()
    assert differences.mean() < 0.2  # where a coefficient of JPEG lies between two levels, rounding decides
    assert (on_cpu.int() - here.images_NHW.int()).abs().float().mean() > 1


def test_a_run_on_the_gpu_learns_phantoms(phantoms: str, tmp_path: Path) -> None:
    Path(tmp_path, "job.toml").write_text("")
    settings = [*SETTINGS, f"data.dataset={phantoms}", f"out={tmp_path}", "name=gpu", "resources.gpu=yes"]
    words = ["train", "-c", f"{tmp_path}/job.toml", "--json"]
    words += [word for each in [*settings, "train.epochs=4"] for word in ("--set", each)]
    result = CliRunner().invoke(app, words, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    history = [json.loads(line) for line in Path(tmp_path, "gpu/metrics.jsonl").read_text().splitlines()]
    assert len(history) == 4
    assert history[-1]["loss"] < history[0]["loss"]

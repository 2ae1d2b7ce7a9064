"""The network that a run begins with, and whether its steps are compiled."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from covseg_ray.config import train as config
from covseg_ray.engine.bundle_io import save_bundle
from covseg_ray.engine.training.initial import initial_network
from covseg_ray.engine.training.learner import compiles
from covseg_ray.errors import UsageError
from covseg_ray.segmentation.network.build import build_network
from covseg_ray.segmentation.network.bundle import Bundle

START = ["model.encoder=resnet18", "model.encoder_weights=none"]


def test_a_run_starts_from_a_bundles_weights(bundle: Bundle, tmp_path: Path):
    save_bundle(str(tmp_path / "model"), bundle.half_precision())
    network = initial_network(config.load(None, [*START, f"model.start={tmp_path}/model"]))
    for name, tensor in network.state_dict().items():
        kept = bundle.state[name].half().float() if bundle.state[name].ndim > 1 else bundle.state[name]
        assert torch.equal(tensor, kept), name


def test_a_bundle_of_another_network_is_refused(bundle: Bundle, tmp_path: Path):
    save_bundle(str(tmp_path / "model"), bundle)
    start = f"model.start={tmp_path}/model"
    with pytest.raises(UsageError, match=r"has encoder 'resnet18' and the job 'resnet34'; set model\.encoder to what"):
        initial_network(config.load(None, [start]))
    classes = 'model.classes=["background", "lung", "infection"]'
    with pytest.raises(
        UsageError, match=r"has classes \['background', 'infection'\] and the job \['background', 'lung'"
    ):
        initial_network(config.load(None, [*START, classes, start]))


def test_steps_are_compiled_as_chosen_or_on_a_gpu_with_a_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    gpu, cpu = torch.device("cuda", 0), torch.device("cpu")
    assert (compiles("yes", cpu), compiles("no", gpu), compiles("auto", cpu)) == (True, False, False)
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert not compiles("auto", gpu)
    compiler = tmp_path / "cc"
    compiler.write_text("#!/bin/sh\n")
    compiler.chmod(0o755)
    assert compiles("auto", gpu) == (find_spec("triton") is not None)


def test_a_step_is_one_graph_for_the_compiler():
    network = build_network("unet", "resnet18").train()
    found = torch._dynamo.explain(network)(torch.randn(2, 3, 32, 32))
    assert (found.graph_count, found.graph_break_count) == (1, 0), found.break_reasons

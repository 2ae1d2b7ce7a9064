"""Pretraining an encoder: its losses are what they say they are, and a run can begin with what comes of it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from places import ROOT
from pretrain_encoder import CUT, ByRestoring, squares

from covseg_ray.config import train as config
from covseg_ray.engine.training.initial import initial_network
from covseg_ray.segmentation.network.weights import read_safetensors

SCRIPT = ROOT / "benchmarks/fit/pretrain_encoder.py"


def test_what_is_cut_out_is_squares_and_about_half() -> None:
    torch.manual_seed(0)
    cut_NHW = squares(torch.Size((20, 64, 64))).numpy()
    blocks = cut_NHW.reshape(20, CUT, 64 // CUT, CUT, 64 // CUT)
    assert (blocks.all((2, 4)) | ~blocks.any((2, 4))).all()
    assert 0.4 < cut_NHW.mean() < 0.6


def test_restoring_is_judged_where_it_was_cut_alone() -> None:
    class Grey(torch.nn.Module):
        def forward(self, films_NCHW: torch.Tensor) -> torch.Tensor:
            return torch.full_like(films_NCHW[:, :1], 0.5)

    films_NHW = np.random.default_rng(0).integers(0, 256, (3, 64, 64), dtype=np.uint8)
    torch.manual_seed(1)
    loss = float(ByRestoring(Grey())(torch.from_numpy(films_NHW), torch.zeros(3)))
    torch.manual_seed(1)
    cut_NHW = squares(torch.Size(films_NHW.shape)).numpy()
    assert loss == pytest.approx(((films_NHW[cut_NHW] / 255 - 0.5) ** 2).mean(), rel=1e-5)


@pytest.mark.full
@pytest.mark.parametrize("by", ["labels", "restoring"])
def test_a_run_begins_with_the_weights(by: str, phantoms: str, tmp_path: Path) -> None:
    out = tmp_path / "encoder.safetensors"
    words = [sys.executable, SCRIPT, phantoms, out, "--by", by, "--encoder", "resnet18", "--epochs", "1"]
    output = subprocess.run(words, check=True, capture_output=True, text=True).stdout
    assert '"epoch": 1' in output
    network = initial_network(config.load(None, ["model.encoder=resnet18", f"model.encoder_weights={out}"]))
    kept = read_safetensors(out.read_bytes(), "encoder")
    for name, tensor in network.get_submodule("encoder").state_dict().items():
        if not name.endswith("num_batches_tracked"):
            assert torch.equal(tensor, kept[name]), name

"""A disk that fills up while a checkpoint or a table is written: one line, exit 4, what was written before is whole."""

from __future__ import annotations

import io
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from runs import Command, epochs, train_words
from training_runs import run_job

from covseg_ray.cli.progress import SegmentProgress
from covseg_ray.engine.bulk.run import Request, segment
from covseg_ray.engine.bundle_io import save_bundle
from covseg_ray.radiograph.masks import encode_png
from covseg_ray.radiograph.phantom import make_phantom
from covseg_ray.segmentation.network.bundle import Bundle

pytestmark = pytest.mark.timeout(900)  # Ray's start alone takes minutes on a machine that is busy


MIB = 1024**2
SPACE_MIB = 560
FILMS = 600


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    if os.geteuid() != 0:
        pytest.skip("a small disk is mounted, which only root can do")
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={SPACE_MIB}m", "tmpfs", str(disk)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"no small disk can be mounted here: {mounted.stderr.decode().strip()}")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def assert_told_full(given: list[str], scratch: Path) -> None:
    """The command ends by saying that the disk is full, in its last line and in no other."""
    with Command(given, scratch) as command:
        code, output, errors = command.finish()
    assert (code, output) == (4, ""), errors
    assert [line for line in errors.splitlines() if "storage full" in line] == errors.splitlines()[-1:]
    assert "Traceback" not in errors
    assert "ray.data" not in errors


def test_a_full_disk_is_one_line_and_the_run_goes_on_later(
    ray_session: None, small_disk: Path, small_job: list[str], tmp_path: Path
) -> None:
    """A checkpoint takes about 165 MiB: the first fits beside the ballast, the second does not."""
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(280 * MIB))
    settings = [
        *small_job,
        "model.encoder=resnet18",
        "train.epochs=3",
        "train.average=0",
        "resources.max_failures=0",
        f"out={small_disk}",
    ]
    assert_told_full(train_words(settings), tmp_path)
    first = torch.load(small_disk / "small/checkpoints/epoch-0001/state.pt", weights_only=True)
    assert [record["epoch"] for record in first["history"]] == [1]
    assert epochs(small_disk / "small")[0] == 1
    ballast.unlink()
    run_job(settings)
    assert epochs(small_disk / "small") == [1, 2, 3]
    assert (small_disk / "small/bundle/model.json").exists()


def test_a_table_on_a_full_disk_is_one_line_and_the_archive_goes_on_later(
    ray_session: None, bundle: Bundle, small_disk: Path, tmp_path: Path
) -> None:
    """A row takes about a KiB and a half: of ten blocks of them the first few fit beside the ballast."""
    save_bundle(str(tmp_path / "model"), bundle)
    (tmp_path / "films").mkdir()
    for index in range(FILMS):
        (tmp_path / f"films/{index:03d}.png").write_bytes(encode_png(make_phantom(3, index, 64).image))
    ballast, out = small_disk / "ballast", small_disk / "out"
    ballast.write_bytes(bytes(SPACE_MIB * MIB - 400 * 1024))
    films, model = str(tmp_path / "films"), str(tmp_path / "model")
    assert_told_full(["segment", films, str(out), "--model", model], tmp_path)
    ballast.unlink()
    assert segment(Request(films, str(out), model), SegmentProgress(io.StringIO()))["ok"] == FILMS
    assert sorted(pq.read_table(out / "results")["item"].to_pylist()) == list(range(FILMS))

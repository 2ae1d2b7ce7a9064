"""What a user can get wrong, from the command line: one line on standard error, the right exit code, nothing lost.

A full disk during a checkpoint is in tests/faults/test_storage_full.py.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from covseg_ray.cli.main import main
from covseg_ray.segmentation.network.build import build_network
from covseg_ray.segmentation.network.bundle import Bundle, BundleSpec
from covseg_ray.segmentation.network.bundle_files import to_files
from covseg_ray.segmentation.network.preprocess import Preprocess
from covseg_ray.storage.datasets.pack import synthesise
from covseg_ray.storage.filesystem import locate, write_files

REAL_SERVER = "AWS_ENDPOINT_URL" in os.environ
FILM = np.random.default_rng(0).integers(0, 256, (48, 64), np.uint8)
MASK = np.zeros((48, 64), np.uint8)
MASK[10:20, 30:50] = 255


class Said(NamedTuple):
    code: int
    out: str
    lines: list[str]


class Command:
    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.monkeypatch, self.capsys = monkeypatch, capsys

    def __call__(self, *words: str) -> Said:
        """Run ``covseg-ray`` with ``words`` as its entry point does."""
        self.monkeypatch.setattr(sys, "argv", ["covseg-ray", *words])
        self.capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        out, errors = self.capsys.readouterr()
        return Said(int(ended.value.code or 0), out, errors.splitlines())

    def refused(self, code: int, *words: str) -> str:
        """The one line of a command that fails with ``code``."""
        said = self(*words)
        assert (said.code, len(said.lines), said.out) == (code, 1, ""), said
        return said.lines[0]


@pytest.fixture
def covseg(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(monkeypatch, capsys)


def png(pixels: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def write(root: Path, films: dict[str, tuple[bytes, bytes | None]]) -> str:
    """A folder with ``images/`` and ``masks/``."""
    for name, pair in films.items():
        for kind, data in zip(("images", "masks"), pair, strict=True):
            if data is not None:
                (root / kind).mkdir(parents=True, exist_ok=True)
                (root / kind / f"{name}.png").write_bytes(data)
    return str(root)


def train_words(dataset: str, out: Path, *changes: str) -> list[str]:
    job = out / "job.toml"
    job.write_text('model.encoder = "tu-test_resnet"\nmodel.encoder_weights = "none"\n')
    settings = [f"data.dataset={dataset}", f"out={out / 'runs'}", *changes]
    return ["train", "-c", str(job), *(word for setting in settings for word in ("--set", setting))]


@pytest.mark.s3
def test_a_missing_bucket(covseg: Command, s3_server: None, tmp_path: Path) -> None:
    source = write(tmp_path / "source", {"a": (png(FILM), png(MASK))})
    for words in (
        ["data", "show", "s3://covseg-no-such-bucket/films"],
        ["data", "pack", source, "s3://covseg-no-such-bucket/films"],
        train_words("s3://covseg-no-such-bucket/films", tmp_path),
        ["evaluate", "s3://covseg-no-such-bucket/bundle", "s3://covseg-no-such-bucket/films"],
    ):
        assert "covseg-no-such-bucket" in covseg.refused(4, *words)


@pytest.mark.s3
@pytest.mark.skipif(not REAL_SERVER, reason="needs a server that checks keys: set AWS_ENDPOINT_URL to a real one")
def test_wrong_credentials_are_told_within_ten_seconds(
    covseg: Command, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    filesystem = type(locate(bucket).fs)
    filesystem.clear_instance_cache()
    begin = time.monotonic()
    line = covseg.refused(4, "data", "synth", f"{bucket}/refused", "--count", "1")
    assert time.monotonic() - begin < 10
    assert "credentials" in line
    filesystem.clear_instance_cache()


def test_an_endpoint_that_is_down_is_told_within_ten_seconds(covseg: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "any")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "any")
    begin = time.monotonic()
    line = covseg.refused(4, "data", "show", "s3://bucket/films")
    assert time.monotonic() - begin < 10
    assert "127.0.0.1:9" in line


def test_a_folder_without_masks(covseg: Command, tmp_path: Path) -> None:
    source = write(tmp_path / "source", {"a": (png(FILM), None)})
    assert "masks" in covseg.refused(1, "data", "pack", source, str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def huge() -> bytes:
    """169 megapixels of black."""
    return png(np.zeros((13_000, 13_000), np.uint8))


@pytest.mark.parametrize(
    ("image", "mask", "reason", "detail"),
    [
        (png(FILM), None, "no-mask", "no mask"),
        (png(FILM), png(MASK[:40]), "mask-size", "the mask is 40 x 64, the image 48 x 64"),
        (png(FILM), png(FILM), "mask-not-binary", "one value, or 0 and one other"),
        (png(FILM)[:1000], png(MASK), "truncated", ""),
        (b"<!doctype html><title>404</title>", png(MASK), "not-an-image", ""),
        (huge, png(MASK), "too-large", "13000"),
    ],
    ids=["no mask", "size", "not binary", "truncated", "html", "169 megapixels"],
)
def test_a_bad_film_is_named_and_the_good_one_packed(
    covseg: Command, tmp_path: Path, image: Any, mask: bytes | None, reason: str, detail: str
) -> None:
    data = image() if callable(image) else image
    source = write(tmp_path / "source", {"good": (png(FILM), png(MASK)), "bad": (data, mask)})
    said = covseg("data", "pack", source, str(tmp_path / "out"), "--size", "64", "--json")
    assert said.code == 3
    assert [line for line in said.lines if "images/bad.png" in line and reason in line], said.lines
    document = json.loads(said.out)
    assert document["rows"] == 1
    (rejected,) = document["rejected"]
    assert (rejected["image"], rejected["reason"]) == ("images/bad.png", reason)
    assert detail in rejected["detail"]


def test_duplicate_ids(covseg: Command, tmp_path: Path) -> None:
    write(tmp_path, {"a": (png(FILM), png(MASK)), "b": (png(FILM), png(MASK))})
    manifest = tmp_path / "films.csv"
    manifest.write_text("image_id,image,mask\none,images/a.png,masks/a.png\none,images/b.png,masks/b.png\n")
    assert "one" in covseg.refused(1, "data", "pack", str(manifest), str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_an_all_black_film_is_packed_and_gives_finite_output(covseg: Command, tmp_path: Path) -> None:
    source = write(tmp_path / "source", {"black": (png(FILM * 0), png(MASK * 0)), "other": (png(FILM), png(MASK))})
    assert covseg("data", "pack", source, str(tmp_path / "out"), "--size", "64").code == 0
    network = torch.nn.Sequential(Preprocess(), build_network("unet", "resnet18", "none", 2)).eval()
    with torch.inference_mode():
        assert torch.isfinite(network(torch.zeros(1, 64, 64, dtype=torch.uint8))).all()


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("workers=0", "give a number from 1, or the fewest and the most"),
        ("workers=[3, 2]", "give a number from 1, or the fewest and the most"),
        ("workers=[1, 2, 3]", "give a number from 1, or the fewest and the most"),
        ("workers=true", "give a number from 1, or the fewest and the most"),
        ("workers=[1, 33]", "train.batch_size 32 is fewer than 33 workers"),
        ("workers=3", "cannot be shared evenly by 3 workers; the nearest that can is 33"),
        ("resources.node_labels=['gpu']", "resources.node_labels.0"),
    ],
)
def test_workers_that_cannot_be(covseg: Command, tmp_path: Path, setting: str, message: str) -> None:
    assert message in covseg.refused(2, *train_words("dataset", tmp_path, setting))


def test_a_split_with_fewer_films_than_workers(covseg: Command, tmp_path: Path) -> None:
    synthesise(str(tmp_path / "four"), 5, seed=1, size=64)
    line = covseg.refused(1, *train_words(str(tmp_path / "four"), tmp_path, "workers=5", "train.batch_size=5"))
    assert "split train has 4 films" in line
    assert not (tmp_path / "runs").exists()


@pytest.mark.full
def test_a_damaged_shard(covseg: Command, ray_session: None, bundle: Bundle, tmp_path: Path) -> None:
    """Its bytes are read on workers alone, actors of `evaluate` and tasks of `train`."""
    dataset = tmp_path / "dataset"
    synthesise(str(dataset), 20, seed=1, size=64)
    for shard in dataset.rglob("*.parquet"):
        data = shard.read_bytes()
        shard.write_bytes(data[: len(data) // 2] + bytes(64) + data[len(data) // 2 + 64 :])
    write_files(str(tmp_path / "bundle"), to_files(bundle))
    line = covseg.refused(1, "evaluate", str(tmp_path / "bundle"), str(dataset))
    assert "not the shard that was written" in line
    assert "ray.data" not in line
    for cache in ("memory", "stream"):
        changes = ("train.batch_size=4", f"data.cache={cache}", f"name={cache}", "resources.max_failures=0")
        said = covseg(*train_words(str(dataset), tmp_path, *changes))
        assert (said.code, said.out) == (1, ""), said
        assert said.lines[-1].startswith(f"error: {dataset}/"), said
        assert "not the shard that was written" in said.lines[-1]
        assert "ray::" not in said.lines[-1]
        assert "ray.data" not in said.lines[-1]


def test_an_unknown_encoder(covseg: Command, phantoms: str, tmp_path: Path) -> None:
    assert "resnet34" in covseg.refused(2, *train_words(phantoms, tmp_path, "model.encoder=resnet43"))
    assert not (tmp_path / "runs").exists()


def test_an_unknown_key_names_the_nearest(covseg: Command, phantoms: str, tmp_path: Path) -> None:
    assert "train.epochs" in covseg.refused(2, *train_words(phantoms, tmp_path, "train.epoch=3"))
    (tmp_path / "typo.toml").write_text("[train]\nlerning_rate = 0.1\n")
    line = covseg.refused(2, "train", "-c", str(tmp_path / "typo.toml"))
    assert "train.learning_rate" in line
    assert "typo.toml" in line


class Bomb:
    """Unpickled, it makes a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (str(self.path),)


def test_a_bundle_whose_pickle_would_run_code(covseg: Command, phantoms: str, tmp_path: Path) -> None:
    state = build_network("unet", "resnet18", "none", 2).state_dict()
    spec = BundleSpec(architecture="unet", encoder="resnet18", classes=("background", "infection"), input_size=64)
    files = to_files(Bundle(spec, state))
    write_files(str(tmp_path / "bundle"), files | {"model.safetensors": pickle.dumps(Bomb(tmp_path / "ran"))})
    for words in (["evaluate", str(tmp_path / "bundle"), phantoms], ["model", "info", str(tmp_path / "bundle")]):
        assert "safetensors" in covseg.refused(2, *words)
    assert not (tmp_path / "ran").exists()

"""The peers do the same work: the same masks from the same films and engine, the same input to the network."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import dataloader_train
import multiprocessing_segment
import numpy as np
import plain_segment
import pytest
import torch
from film_files import list_films, name_of, read_film
from near_ties import undecided_on_phantoms
from places import ROOT
from plain_predict import PlainModel
from segment_peers import Masks, different, masks_in_folder, masks_in_table, sent, write_films
from train_peers import write_films as write_training

from covseg_ray.engine.bundle_io import save_bundle
from covseg_ray.radiograph.decode import decode
from covseg_ray.radiograph.film import Radiograph
from covseg_ray.radiograph.geometry import restore_mask, standardise
from covseg_ray.radiograph.masks import encode_png
from covseg_ray.radiograph.phantom import make_phantom
from covseg_ray.segmentation.inference.predictor import BatchPredictor
from covseg_ray.segmentation.network.bundle import Bundle
from covseg_ray.segmentation.network.decision import Rule
from covseg_ray.segmentation.network.preprocess import Preprocess

PEERS = ROOT / "benchmarks/peers"
SIDE, FILMS = 64, 4


@pytest.fixture(scope="module")
def model() -> Bundle:
    """Undecided on about half of each film, with a rule as the shipped model has one."""
    return undecided_on_phantoms(SIDE).with_rule(Rule(threshold=0.5, smallest_region=40))


@pytest.fixture(scope="module")
def folder(model: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``model``, and ``films``: phantoms of the model's size, and one that is larger and no square. At its size no
    pixel's centre falls on a border of the square's pixels, where Pillow and exact arithmetic may differ."""
    folder: Path = tmp_path_factory.mktemp("peers")
    save_bundle(str(folder / "model"), model)
    write_films(folder / "films", None, FILMS, SIDE)
    wide_HW = make_phantom(1, 0, 192).image[:128]
    (folder / "films/wide.png").write_bytes(encode_png(np.ascontiguousarray(wide_HW)))
    return folder


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    """A predictor's number of threads is that of the whole process."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def ours(model: Bundle, films: Path, precision: str = "auto") -> Masks:
    """By the functions that ``covseg-ray segment`` puts together."""
    predictor, found = BatchPredictor(model, precision=precision, threads=1), {}
    for path in films.iterdir():
        film = decode(path.read_bytes())
        assert isinstance(film, Radiograph)
        square_SS, placement = standardise(film.pixels, SIDE)
        mask_SS = predictor.predict(square_SS[None])[0] == model.spec.infection
        found[path.name] = restore_mask(mask_SS.astype(np.uint8), placement) > 0
    return found


def test_processes_of_our_model_give_our_masks(model: Bundle, folder: Path, tmp_path: Path) -> None:
    multiprocessing_segment.load(str(folder / "model"), "auto")
    for film in list_films(str(folder / "films")):
        multiprocessing_segment.segment((film, tmp_path))
    multiprocessing_segment.loaded.clear()
    found = masks_in_folder(tmp_path)
    assert len(found) == FILMS + 1
    assert any(0 < mask_HW.mean() < 1 for mask_HW in found.values())
    assert different(found, ours(model, folder / "films")) == 0


@pytest.mark.skipif(not find_spec("daft"), reason="Daft is not installed")
def test_daft_with_our_model_gives_our_masks(model: Bundle, folder: Path, tmp_path: Path) -> None:
    words = [sys.executable, PEERS / "daft_segment.py", folder / "films", tmp_path / "out"]
    options = ["--model", folder / "model", "--processes", "1"]
    done = subprocess.run([*words, *options], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout.splitlines()[-1])["films_per_second"] > 0
    assert different(masks_in_table(tmp_path / "out", "path"), ours(model, folder / "films")) == 0


def test_the_plain_script_gives_the_masks_of_fp32(model: Bundle, folder: Path, tmp_path: Path) -> None:
    """All but single pixels on the border: its sums run in another order."""
    plain = PlainModel(str(folder / "model"))
    for film in list_films(str(folder / "films")):
        plain_segment.segment(plain, film, tmp_path)
    found, wanted = masks_in_folder(tmp_path), ours(model, folder / "films", "fp32")
    assert found.keys() == wanted.keys()
    for name, mask_HW in found.items():
        assert (mask_HW != wanted[name]).mean() < 0.002


@pytest.mark.s3
def test_films_of_a_bucket_are_listed_and_read_as_those_of_a_folder(folder: Path, bucket: str) -> None:
    there = sent(folder / "films", f"{bucket}/peers")
    here, found = list_films(str(folder / "films")), list_films(there)
    assert [name_of(film) for film in found] == [name_of(film) for film in here]
    assert [read_film(film).read() for film in found] == [read_film(film).read() for film in here]


def test_masks_that_are_missing_or_differ_are_counted() -> None:
    empty_HW = np.zeros((4, 4), bool)
    assert different({"a": empty_HW, "b": empty_HW}, {"a": empty_HW, "b": ~empty_HW, "c": empty_HW}) == 2


def test_the_dataset_of_the_script_is_our_preprocessing_flipped(tmp_path: Path) -> None:
    write_training(tmp_path, 5)
    films = dataloader_train.Films(tmp_path / "films")
    assert len(films) == 4  # the fifth is for validation
    for index in range(len(films)):
        phantom = make_phantom(0, index)
        whole_CHW = Preprocess()(torch.from_numpy(phantom.image[None]))[0]
        image_CHW, mask_HW = films[index]
        flips = [
            axes for axes in ((), (-1,), (-2,), (-1, -2)) if torch.allclose(image_CHW, whole_CHW.flip(axes), atol=1e-5)
        ]
        assert len(flips) == 1
        assert torch.equal(mask_HW, torch.from_numpy(phantom.infection).long().flip(flips[0]))


def test_its_batches_go_on_after_the_last_film(tmp_path: Path) -> None:
    write_training(tmp_path, 5)
    feed = dataloader_train.batches(dataloader_train.Films(tmp_path / "films"), batch=3, workers=0, world=1)
    shapes = [tuple(next(feed)[0].shape) for _ in range(3)]
    assert shapes == [(3, 3, 256, 256)] * 3

"""The films of a job: groups by source and label and their shares, lungs that are not there, and what is refused."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from covseg_ray.config import train as config
from covseg_ray.config.train import Job
from covseg_ray.engine.training import loader
from covseg_ray.engine.training.films import find_films
from covseg_ray.engine.training.sampling import shuffled_share
from covseg_ray.errors import ConfigError, DatasetError, UsageError
from covseg_ray.radiograph.masks import encode_png
from covseg_ray.radiograph.phantom import make_phantom
from covseg_ray.segmentation.training.targets import UNKNOWN
from covseg_ray.storage.datasets.pack import pack
from covseg_ray.storage.datasets.read import list_units, sources_and_labels

SIDE = 32
CLASSES = '["background", "lung", "infection"]'


def manifest(folder: Path, labels: list[str], lung: bool) -> str:
    """A manifest of phantoms with these labels, all in split train."""
    folder.mkdir()
    rows = ["image,mask,lung,label,split"]
    for index, label in enumerate(labels):
        phantom = make_phantom(len(folder.name), index, SIDE)
        files = {"image": phantom.image, "mask": phantom.infection * 255, "lung": phantom.lung * 255}
        for name, pixels in files.items():
            (folder / f"{name}-{index}.png").write_bytes(encode_png(pixels))
        rows.append(f"image-{index}.png,mask-{index}.png,{f'lung-{index}.png' if lung else ''},{label},train")
    (folder / "films.csv").write_text("\n".join(rows))
    return str(folder / "films.csv")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("films")
    here = manifest(folder / "here", ["COVID-19"] * 20 + ["Normal"] * 20, lung=True)
    there = manifest(folder / "there", ["COVID-19"] * 60, lung=False)
    pack([here, there], str(folder / "dataset"), size=SIDE)
    return str(folder / "dataset")


def job(dataset: str, *settings: str) -> Job:
    return config.load(None, [f"data.dataset={dataset}", "train.batch_size=10", "train.epochs=4", *settings])


def test_films_are_grouped_by_source_and_label(dataset: str) -> None:
    found = sources_and_labels(dataset, list_units(dataset, "train"))
    assert Counter(each for of_unit in found for each in of_unit) == {
        ("here", "COVID-19"): 20,
        ("here", "Normal"): 20,
        ("there", "COVID-19"): 60,
    }
    assert [len(of_unit) for of_unit in found] == [len(unit.rows) for unit in list_units(dataset, "train")]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ('["Normal=0.5"]', {("here", "Normal"): 50, ("here", "COVID-19"): 12.5, ("there", "COVID-19"): 37.5}),
        ('["there=0.25"]', {("here", "Normal"): 37.5, ("here", "COVID-19"): 37.5, ("there", "COVID-19"): 25}),
        (
            '["there/COVID-19=0.2", "Normal=0.6"]',
            {("here", "Normal"): 60, ("here", "COVID-19"): 20, ("there", "COVID-19"): 20},
        ),
    ],
)
def test_an_epoch_has_the_shares(dataset: str, given: str, expected: dict[tuple[str, str], float]) -> None:
    source = find_films(job(dataset, f"data.shares={given}"), "train")
    groups = sources_and_labels(dataset, source.units)
    for epoch in (1, 2):
        drawn = source.drawn(5, epoch)
        counts = Counter(of_unit[row] for of_unit, rows in zip(groups, drawn, strict=True) for row in rows.tolist())
        assert counts.total() == 100
        for group, films in expected.items():
            assert counts[group] == pytest.approx(films, abs=1.01)


def test_shares_hold_until_their_epoch_and_never_in_validation(dataset: str) -> None:
    source = find_films(job(dataset, 'data.shares=["Normal=0.5"]', "data.shares_until=0.5"), "train")
    every = [list(range(len(unit.rows))) for unit in source.units]
    assert [rows.tolist() for rows in source.drawn(5, 2)] != every
    assert [rows.tolist() for rows in source.drawn(5, 3)] == every
    assert [rows.tolist() for rows in source.drawn(None, 1)] == every


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        (
            '["Normla=0.5"]',
            UsageError,
            "Normla has no film in split train; the groups are COVID-19, Normal, here",
        ),
        ('["Normal=0.5", "here=0.2"]', UsageError, "films of Normal from here are in here and in Normal"),
        ('["Normal=0.5", "COVID-19=0.2"]', UsageError, "must add up to 1"),
        ('["Normal=0.7", "COVID-19=0.7"]', ConfigError, "add up to more than 1"),
        ('["Normal=0.2", "Normal=0.3"]', ConfigError, "a group is there twice"),
        ('["Normal"]', ConfigError, "data.shares"),
        ('["Normal=2"]', ConfigError, "data.shares"),
    ],
)
def test_shares_that_cannot_be_are_refused(dataset: str, given: str, error: type[Exception], words: str) -> None:
    with pytest.raises(error) as caught:
        find_films(job(dataset, f"data.shares={given}"), "train")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_batches_have_the_drawn_films_and_unknown_lungs(ray_session: None, dataset: str) -> None:
    source = find_films(job(dataset, f"model.classes={CLASSES}", 'data.shares=["there=0.5"]'), "train")
    sizes = [len(rows) for rows in source.drawn(5, 1)]
    portions = shuffled_share(sizes, 5, 1, 0, 1, 10)
    batches = list(loader.batches(source, portions, 10, torch.device("cpu"), shuffle_seed=5))
    rows = torch.cat([batch.rows_N for batch in batches]).tolist()
    starts = np.cumsum([0, *(len(unit.rows) for unit in source.units)])
    drawn = [int(start + row) for start, of_unit in zip(starts, source.drawn(5, 1), strict=False) for row in of_unit]
    assert Counter(rows) == Counter(drawn)
    groups = [each for of_unit in sources_and_labels(dataset, source.units) for each in of_unit]
    targets_NHW = torch.cat([batch.targets_NHW for batch in batches])
    unknown = [(target_HW == UNKNOWN).any().item() for target_HW in targets_NHW]
    assert unknown == [groups[row][0] == "there" for row in rows]
    assert sum(unknown) == pytest.approx(50, abs=1)


def test_a_dataset_without_any_lung_mask_cannot_train_lungs(tmp_path: Path) -> None:
    pack(manifest(tmp_path / "bare", ["COVID-19"] * 8, lung=False), str(tmp_path / "dataset"), size=SIDE)
    assert find_films(job(str(tmp_path / "dataset")), "train").rows == 8
    with pytest.raises(DatasetError, match=r"no film has a lung mask, and model\.classes has lung"):
        find_films(job(str(tmp_path / "dataset"), f"model.classes={CLASSES}"), "train")

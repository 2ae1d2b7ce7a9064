"""The order of films: what every rank gets in every epoch, by rule and through Ray Data."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import ray
import torch
from hypothesis import given
from hypothesis import strategies as st
from ray.data import ExecutionResources

from covseg_ray.engine.data_context import Rest
from covseg_ray.engine.training import loader as stream
from covseg_ray.engine.training import sampling as order
from covseg_ray.engine.training.sampling import Portion
from covseg_ray.engine.training.split import Source, cache, fits_in_object_store
from covseg_ray.engine.training.worker import Rank
from covseg_ray.storage.datasets.pack import synthesise
from covseg_ray.storage.datasets.read import list_units, read_unit

UNIT_SIZES = st.lists(st.integers(1, 9), min_size=1, max_size=12)
Film = tuple[int, int]


def films_of(portions: Sequence[Portion]) -> list[Film]:
    """(unit, place in the unit's order) of each film."""
    return [(p.unit, place) for p in portions for place in range(p.start, p.stop)]


@given(UNIT_SIZES, st.integers(1, 4), st.integers(1, 4), st.integers(0, 9), st.integers(1, 9))
def test_shares_are_disjoint_equal_and_leave_less_than_a_batch(
    sizes: list[int], world: int, micro: int, seed: int, epoch: int
) -> None:
    batch = world * micro
    shares = [films_of(order.shuffled_share(sizes, seed, epoch, rank, world, batch)) for rank in range(world)]
    taken = [film for share in shares for film in share]
    assert {len(share) % micro for share in shares} == {0}
    assert len({len(share) for share in shares}) == 1
    assert len(set(taken)) == len(taken)
    assert set(taken) <= {(unit, place) for unit, size in enumerate(sizes) for place in range(size)}
    assert 0 <= sum(sizes) - len(taken) < batch


@given(UNIT_SIZES, st.integers(1, 5), st.integers(0, 11), st.integers(0, 9))
def test_any_number_of_workers_sees_the_films_of_one(sizes: list[int], world: int, more: int, seed: int) -> None:
    """An epoch's films do not depend on the number of workers, and all of them end with the same step."""
    batch = world + more
    alone = films_of(order.shuffled_share(sizes, seed, 1, 0, 1, batch))
    shares = [films_of(order.shuffled_share(sizes, seed, 1, rank, world, batch)) for rank in range(world)]
    assert [film for share in shares for film in share] == alone
    each = [Rank(rank, world).share(batch) for rank in range(world)]
    assert (sum(each), max(each) - min(each) <= 1) == (batch, True)
    assert [len(share) for share in shares] == [len(alone) // batch * films for films in each]


@given(st.integers(1, 7), st.integers(0, 25))
def test_workers_with_uneven_shares_make_the_gradient_of_the_whole_batch(world: int, more: int) -> None:
    batch, places = world + more, [Rank(rank, world) for rank in range(world)]
    gradients = torch.randn(batch, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(more))
    shares = gradients.split([place.share(batch) for place in places])
    averaged = sum(place.weight(batch) * share.mean(0) for place, share in zip(places, shares, strict=True)) / world
    torch.testing.assert_close(averaged, gradients.mean(0))


@given(UNIT_SIZES, st.integers(1, 8), st.integers(0, 3))
def test_validation_covers_each_film_once(sizes: list[int], world: int, epoch: int) -> None:
    shares = [order.plain_share(sizes, epoch, rank, world) for rank in range(world)]
    assert [film for share in shares for film in films_of(share)] == [
        (unit, place) for unit, size in enumerate(sizes) for place in range(size)
    ]
    assert {portion.epoch for share in shares for portion in share} <= {epoch}


def test_the_order_is_the_seeds_and_the_epochs() -> None:
    sizes = [5] * 40
    orders = {
        (seed, epoch): films_of(order.shuffled_share(sizes, seed, epoch, 0, 1, 10))
        for seed in (0, 1)
        for epoch in (1, 2)
    }
    assert len({tuple(films) for films in orders.values()}) == 4
    assert films_of(order.shuffled_share(sizes, 1, 2, 0, 1, 10)) == orders[1, 2]


@given(
    st.lists(st.lists(st.integers(0, 5), min_size=1, max_size=4), min_size=1, max_size=4),
    st.integers(1, 6),
)
def test_regrouped_batches_keep_order_and_never_cross_an_epoch(lengths: list[list[int]], size: int) -> None:
    """``lengths[e]`` are the films in each block of epoch e."""
    blocks, expected, row = [], [], 0
    for epoch, of_epoch in enumerate(lengths):
        rows = list(range(row, row + sum(of_epoch)))
        expected += [(epoch, rows[start : start + size]) for start in range(0, len(rows), size)]
        for length in of_epoch:
            rows_N = torch.arange(row, row + length)
            row += length
            blocks.append(
                {
                    "image": rows_N.reshape(-1, 1, 1) + 1,
                    "target": rows_N.reshape(-1, 1, 1) + 2,
                    "row": rows_N,
                    "epoch": torch.full((length,), epoch),
                }
            )
    found = list(stream.regroup(blocks, size))
    assert [(batch.epoch, batch.rows_N.tolist()) for batch in found] == expected
    for batch in found:
        assert batch.images_NHW.flatten().tolist() == (batch.rows_N + 1).tolist()
        assert batch.targets_NHW.flatten().tolist() == (batch.rows_N + 2).tolist()


@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("classes", [("background", "infection"), ("background", "lung", "infection")])
def test_batches_through_ray_data_are_the_films_by_hand(
    ray_session: None, tmp_path: Path, classes: tuple[str, ...], cached: bool
) -> None:
    dataset = str(tmp_path / "dataset")
    synthesise(dataset, 30, seed=5, size=64)
    units = list_units(dataset, "train")
    source = Source(dataset, tuple(units), classes)
    source = cache(source) if cached else source
    sizes = [len(unit.rows) for unit in units]
    portions = [p for epoch in (1, 2) for p in order.shuffled_share(sizes, 9, epoch, 1, 2, 8)]
    found = list(stream.batches(source, portions, 4, torch.device("cpu"), shuffle_seed=9))
    images, classes_NHW, rows = expected_films(dataset, classes, portions)
    assert [batch.epoch for batch in found] == [1] * 3 + [2] * 3
    assert np.array_equal(torch.cat([batch.images_NHW for batch in found]).numpy(), images)
    assert np.array_equal(torch.cat([batch.targets_NHW for batch in found]).numpy(), classes_NHW)
    assert torch.cat([batch.rows_N for batch in found]).tolist() == rows
    assert {len(batch.rows_N) for batch in found} == {4}


def expected_films(
    dataset: str, classes: tuple[str, ...], portions: Sequence[Portion]
) -> tuple[np.ndarray, np.ndarray, list[int]]:
    units = list_units(dataset, "train")
    films = [read_unit(dataset, unit, with_lung=True) for unit in units]
    firsts = np.cumsum([0, *(len(unit.rows) for unit in units)])
    images, targets, rows = [], [], []
    for epoch, unit, start, stop in portions:
        chosen = np.random.default_rng((9, epoch, unit)).permutation(len(units[unit].rows))[start:stop]
        infection_NHW, lungs_NHW = films[unit].masks_NHW[chosen], films[unit].lungs_NHW[chosen]
        lung_or_not_NHW = lungs_NHW if "lung" in classes else np.zeros_like(lungs_NHW)
        images.append(films[unit].images_NHW[chosen])
        targets.append(np.where(infection_NHW == 1, len(classes) - 1, lung_or_not_NHW))
        rows += (firsts[unit] + chosen).tolist()
    return np.concatenate(images), np.concatenate(targets), rows


def test_what_fits_is_judged_by_the_bytes_of_its_films(ray_session: None, phantoms: str) -> None:
    store = ray.cluster_resources()["object_store_memory"]
    two = Source(phantoms, tuple(list_units(phantoms, "train")), ("background", "infection"))
    three = Source(phantoms, two.units, ("background", "lung", "infection"))
    assert two.rows == 80
    most = int(0.3 * store / 80 / 2)
    assert fits_in_object_store(two, most)
    assert not fits_in_object_store(two, most + 1)
    assert not fits_in_object_store(three, most)


def test_a_rank_without_films_gets_no_batch() -> None:
    assert list(stream.batches(Source("nowhere", (), ()), [], 4, torch.device("cpu"))) == []


@pytest.mark.full
def test_of_streams_side_by_side_each_has_cpus(
    ray_session: None, phantoms: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Left to itself, Ray Data has 4 for the first and 0 for the second: one unit at a time."""
    cpus: dict[int, float] = {}
    monkeypatch.setattr(
        Rest,
        "on_execution_step",
        lambda self, executor: cpus.update({id(executor): executor._resource_manager.get_global_limits().cpu}),
    )
    source = Source(phantoms, tuple(list_units(phantoms, "train")), ("background", "infection"))
    sizes = [len(unit.rows) for unit in source.units]
    portions = [Portion(epoch, unit, 0, sizes[unit]) for epoch in range(3000) for unit in range(len(sizes))]
    training, validation = (stream.batches(source, portions, 16, torch.device("cpu"), streams=2) for _ in range(2))
    begin = time.monotonic()
    while time.monotonic() - begin < 12:  # Ray Data asks for more every ten seconds
        next(training)
    next(validation)
    deadline = time.monotonic() + 30
    while not (len(cpus) == 2 and min(cpus.values()) >= 1):
        assert time.monotonic() < deadline, cpus
        next(training)
        next(validation)
    training.close()
    validation.close()


@pytest.mark.full
def test_films_that_wait_for_the_training_cost_no_core(ray_session: None, tmp_path: Path) -> None:
    """With its store full and nothing to wait for, Ray Data's loop turns without pause: 2.8 s of a core in 3 s."""
    synthesise(str(tmp_path / "films"), 100, seed=1, size=128)
    units = tuple(list_units(str(tmp_path / "films"), "train"))
    portions = [Portion(epoch, unit, 0, len(units[unit].rows)) for epoch in range(200) for unit in range(len(units))]
    options = ray.data.DataContext.get_current().execution_options
    before, options.resource_limits = options.resource_limits, ExecutionResources(object_store_memory=20e6)
    films = stream.batches(
        Source(str(tmp_path / "films"), units, ("background", "infection")), portions, 16, torch.device("cpu"), 1
    )
    for _ in range(3):
        next(films)
    time.sleep(2)
    begin = time.process_time()
    time.sleep(3)
    assert time.process_time() - begin < 1
    films.close()
    options.resource_limits = before

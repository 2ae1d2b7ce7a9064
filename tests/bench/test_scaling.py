"""The simulation of a cluster against closed forms: linear, Amdahl's law, a bandwidth's cap, the slowest of n."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scaling import NODES, simulate
from scaling_model import (
    BLOCK,
    Cluster,
    Rates,
    expected_max,
    outcomes,
    ring_seconds,
    run_blocks,
    segment_once,
    train_once,
)
from scaling_tables import BEGIN, END, bend, draw, put_between, runs_table
from scaling_training import SHARES

INFINITE = float("inf")
CORES = 4
FILMS = BLOCK["cores"] * CORES * 64 * 3  # three blocks for each core of the largest cluster
PREDICT = 0.125
# Every stage but the network costs nothing: each test gives a cost to the one that it is about.
FREE = Rates(
    cores=CORES,
    listing_input=0.0,
    read_object=0.0,
    read_megabyte=0.0,
    film_bytes=500_000.0,
    row_bytes=500.0,
    load_film=0.0,
    predict_blocks=[PREDICT],
    outline_film=0.0,
    write_block=0.0,
    dispatch_block=0.0,
    driver_block=0.0,
    finish=0.0,
    finish_block=0.0,
    start=0.0,
    run_films_per_second=CORES / PREDICT,
    run_films=64,
    steps={str(share): [share / 8] for share in SHARES},
    gradient_bytes=1e8,
    validate_film=0.0,
    score=0.0,
    save=0.0,
    checkpoint_bytes=0.0,
    train_start=0.0,
)
BOUNDLESS = Cluster(CORES, storage=INFINITE, requests=INFINITE, latency=0.0, network=INFINITE)
TRAINING = (3200, 640, 10)


def segmentation(rates: Rates, cluster: Cluster = BOUNDLESS, films: int = FILMS) -> dict[int, float]:
    """Seconds by nodes."""
    return {nodes: segment_once(rates, cluster, films, nodes)[0] for nodes in NODES}


def training(rates: Rates, cluster: Cluster = BOUNDLESS, each: bool = False) -> dict[int, float]:
    return {nodes: train_once(rates, cluster, TRAINING, nodes, each)[0] for nodes in NODES if nodes <= 32}


def test_without_serial_parts_and_limits_it_is_linear() -> None:
    for nodes, seconds in segmentation(FREE).items():
        assert seconds == pytest.approx(FILMS * PREDICT / (nodes * CORES), rel=1e-9)
    for nodes, seconds in training(FREE).items():
        assert seconds == pytest.approx(10 * 3200 / 8 / nodes, rel=1e-9)
    runs = outcomes(FILMS, {nodes: segment_once(FREE, BOUNDLESS, FILMS, nodes) for nodes in NODES})
    assert [run.efficiency for run in runs] == pytest.approx([1.0] * len(NODES))
    assert [run.node_seconds_per_1000 for run in runs] == pytest.approx([1000 * PREDICT / CORES] * len(NODES))
    assert bend(runs) == "At least 90% of linear up to 64 nodes."


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5])
def test_a_serial_share_is_amdahls_law(share: float) -> None:
    parallel = FILMS * PREDICT / CORES
    serial = parallel * share / (1 - share)
    blocks = FILMS // BLOCK["cores"]
    for rates in (
        replace(FREE, start=serial),
        replace(FREE, listing_input=serial / FILMS),
        replace(FREE, finish_block=serial / blocks),
    ):
        seconds = segmentation(rates)
        for nodes in NODES:
            assert seconds[1] / seconds[nodes] == pytest.approx(1 / (share + (1 - share) / nodes), rel=1e-9)
    epochs = TRAINING[2] * TRAINING[0] / 8
    serial = epochs * share / (1 - share)
    for rates in (replace(FREE, train_start=serial), replace(FREE, save=serial / TRAINING[2])):
        seconds = training(rates)
        for nodes in seconds:
            assert seconds[1] / seconds[nodes] == pytest.approx(1 / (share + (1 - share) / nodes), rel=1e-9)


def test_a_shared_bandwidth_caps_the_films_a_second() -> None:
    cap = 10 * CORES / PREDICT  # the films/s of ten nodes
    by_bytes = replace(BOUNDLESS, storage=cap * (FREE.film_bytes + FREE.row_bytes))
    by_requests = replace(BOUNDLESS, requests=cap * (BLOCK["cores"] + 3) / BLOCK["cores"])
    by_driver = replace(FREE, dispatch_block=BLOCK["cores"] / cap)
    for rates, cluster, limit in (
        (FREE, by_bytes, "storage"),
        (FREE, by_requests, "storage"),
        (by_driver, BOUNDLESS, "driver"),
    ):
        for nodes in NODES:
            seconds, found, _ = segment_once(rates, cluster, 50 * FILMS, nodes)
            wanted = min(nodes * CORES / PREDICT, cap)
            assert 50 * FILMS / seconds == pytest.approx(wanted, rel=0.01)
            assert found == ("cores" if nodes < 10 else limit)


@pytest.mark.parametrize("nodes", [1, 4, 64])
def test_with_one_block_a_node_the_end_is_the_slowest_of_n(nodes: int) -> None:
    """Mean of the largest of n: of exponential times the harmonic number, of uniform ones n/(n+1)."""
    rng = np.random.default_rng(1)
    harmonic = sum(1 / k for k in range(1, nodes + 1))
    for draw_times, wanted in ((rng.standard_exponential, harmonic), (rng.random, nodes / (nodes + 1))):
        ends = [run_blocks(draw_times(nodes), nodes) for _ in range(4000)]
        assert np.mean(ends) == pytest.approx(wanted, abs=5 * np.std(ends) / np.sqrt(len(ends)))
        assert expected_max(draw_times(200_000), nodes) == pytest.approx(wanted, rel=0.02)


def test_blocks_go_to_the_core_that_is_free_first() -> None:
    assert run_blocks([3.0, 1.0, 1.0, 1.0], 2) == 3.0
    assert run_blocks([1.0, 1.0, 1.0, 3.0], 2) == 4.0


def test_gradients_go_twice_around_the_ring_but_for_one_share() -> None:
    assert ring_seconds(97.7e6, 1, 1e9) == 0
    assert ring_seconds(97.7e6, 4, 1e9) == pytest.approx(0.14655)
    slow = replace(BOUNDLESS, network=1e8)  # 1.9375 s for 32 workers, while two thirds of a step of 0.125 s go on
    seconds, limit, loss = train_once(FREE, slow, TRAINING, 32, False)
    assert seconds == pytest.approx(10 * 100 * (0.125 / 3 + 1.9375))
    assert (limit, max(loss, key=lambda name: loss[name])) == ("network", "network")


def test_small_batches_and_the_slowest_worker_are_losses() -> None:
    uneven = replace(FREE, steps={str(share): [share / 8 + 0.5, share / 8 + 1.5] for share in SHARES})
    seconds, _, loss = train_once(uneven, BOUNDLESS, TRAINING, 2, False)
    slowest = 0.75 * 3.5 + 0.25 * 2.5
    assert seconds == pytest.approx(10 * 100 * slowest)
    assert loss["small batches"] == pytest.approx(10 * 100 * (3 - 2.5))
    assert loss["the slowest worker"] == pytest.approx(10 * 100 * (slowest - 3))
    for workers in (2, 64):  # 64 batches of 32 are 2,048 films of an epoch's 3,200
        weak = train_once(FREE, BOUNDLESS, TRAINING, workers, True)[0]
        assert weak == pytest.approx(10 * 3200 / 8 / workers)


def test_a_gpu_waits_for_the_cores_that_decode() -> None:
    gpu = replace(BOUNDLESS, gpu_predict=1000.0)
    films = BLOCK["GPUs"] * 64 * 4
    assert films / segment_once(FREE, gpu, films, 4)[0] == pytest.approx(4000)
    decoding = replace(FREE, load_film=0.02)
    seconds, limit, _ = segment_once(decoding, gpu, films, 4)
    assert (films / seconds, limit) == (pytest.approx(4 * CORES / 0.02), "cores beside the GPUs")


def test_tables_and_picture_go_into_the_document(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    scenarios = simulate(FREE, replace(BOUNDLESS, gpu_predict=1000.0, gpu_train=500.0), FILMS, TRAINING)
    assert len(scenarios) == 5
    title, runs = next(iter(scenarios.items()))
    put_between(page, runs_table(runs))
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old" not in text
    assert text.count("| 64 | 2,048.0 | 1.00 | 31.2 | cores |") == 1
    draw(tmp_path / "page.png", scenarios)
    assert (tmp_path / "page.png").stat().st_size < 60_000
    page.write_text("no marks")
    with pytest.raises(SystemExit, match="marks are missing"):
        put_between(page, title)

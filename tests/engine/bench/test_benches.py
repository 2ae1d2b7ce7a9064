"""Benches on phantoms: what they say follows from their own rounds, and their rounds from what really ran."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from random_models import WITH_LUNGS, random_model
from typer.testing import CliRunner

from covseg_ray.cli.main import app
from covseg_ray.engine.bench import segment as bench_segment
from covseg_ray.engine.bench.rounds import Rate, in_turn
from covseg_ray.engine.bench.serve import numbers
from covseg_ray.engine.bundle_io import save_bundle
from covseg_ray.errors import DatasetError, StorageError, UsageError
from covseg_ray.radiograph.masks import encode_png
from covseg_ray.radiograph.phantom import make_phantom

pytestmark = pytest.mark.timeout(900)  # Ray's start alone takes minutes on a machine that is busy

FILMS = 12


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    uri = str(tmp_path_factory.mktemp("bench") / "bundle")
    save_bundle(uri, random_model(4, WITH_LUNGS))
    return uri


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("archive")
    for index in range(FILMS):
        (folder / f"{index}.png").write_bytes(encode_png(make_phantom(0, index, 96).image))
    return str(folder)


def run(*words: str) -> dict[str, Any]:
    done = CliRunner().invoke(app, ["bench", *words, "--json"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def check(document: dict[str, Any], *rounds: int) -> None:
    """Every median and ratio again, by NumPy; of so many rounds each, or all of as many as the one number."""
    against = float(np.median(document["against"]["rounds"]))
    assert document["against"]["median"] == pytest.approx(against)
    counts = rounds if len(rounds) > 1 else rounds * len(document["rates"])
    for rate, count in zip(document["rates"], counts, strict=True):
        if rate["rounds"]:
            assert len(rate["rounds"]) == count
            assert min(rate["rounds"]) > 0
            assert rate["ratio"] == pytest.approx(float(np.median(rate["rounds"])) / against)
    assert set(document["machine"]) >= {"processor", "cores", "gpu", "torch", "ray"}


@pytest.mark.full
def test_predict_takes_every_engine_and_its_films_took_the_time_that_it_says(model: str) -> None:
    begin = time.perf_counter()
    document = run("predict", model, "--films", "16", "--rounds", "3")
    elapsed = time.perf_counter() - begin
    check(document, 3)
    assert document["against"]["name"] == "a plain script"
    names = {rate["name"] for rate in document["rates"]}
    assert names >= {"torch fp32", "torch bf16", "openvino fp32", "openvino bf16", "onnx fp32"}
    spent = sum(16 / each for rate in document["rates"] for each in rate["rounds"])
    assert spent < elapsed
    fastest = max((rate for rate in document["rates"] if rate["rounds"]), key=lambda rate: rate["median"])
    assert document["advice"][0].startswith(f"fastest here: {fastest['name']}, ")


def test_rounds_are_taken_in_turn() -> None:
    order: list[str] = []

    def measure(name: str, value: float) -> float:
        order.append(name)
        return value

    found = in_turn(2, {"a": lambda: measure("a", 1.0), "b": lambda: measure("b", 2.0)}, lambda line: None)
    assert order == ["a", "b", "a", "b"]
    assert found == {"a": (1.0, 1.0), "b": (2.0, 2.0)}


@pytest.mark.full
def test_segment_measures_each_stage_and_the_whole(ray_session: None, model: str, archive: str, tmp_path: Path) -> None:
    """On a cluster: the session that runs already stands for the one at the address."""
    words = ["--model", model, "--films", str(FILMS), "--rounds", "1", "--out", str(tmp_path / "out")]
    document = run("segment", archive, *words, "--address", "auto")
    assert document["machine"]["processor"] == "a Ray cluster of 1 node"
    check(document, 2, 2, 2, 1)
    *stages, whole = document["rates"]
    assert [rate["name"] for rate in stages] == ["read and decode", "predict", "postprocess"]
    (summary,) = (json.loads(path.read_bytes()) for path in (tmp_path / "out").glob("*/summary.json"))
    assert summary["ok"] == FILMS
    assert whole["rounds"] == [summary["films_per_second"]]


def test_the_stage_that_takes_most_of_a_core_is_the_one_to_give_more() -> None:
    """Of 5 + 10 + 85 ms a film, that is; two of them side by side on a core would be no faster."""
    stages = tuple(
        Rate(name, (1000 / milliseconds,))
        for name, milliseconds in (("read and decode", 5), ("predict", 10), ("postprocess", 85))
    )
    shares, more, whole = bench_segment.advice(stages, Rate("segment", (6.0,)), Rate("the model in memory", (8.0,)), 3)
    assert "100 ms on a core: read and decode 5%, predict 10%, postprocess 85%" in shares
    assert more.startswith("give postprocess more")
    assert "3 cores could do 30.0 films/s" in more
    assert "75%" in whole


def test_cores_that_do_not_keep_the_gpus_busy_are_to_be_more() -> None:
    """At 2 + 8 ms a film 4 cores read and postprocess 400 films a second: too few for GPUs that predict 600."""
    stages = tuple(
        Rate(name, (rate,)) for name, rate in (("read and decode", 500), ("predict", 9), ("postprocess", 125))
    )
    for predicted, word in ((600.0, "give the GPUs more cores: 6 would keep them busy, not 4"), (300.0, "more GPUs")):
        against = Rate("the model in memory", (predicted,))
        fed, more, whole = bench_segment.advice_gpu(stages, Rate("segment", (150.0,)), against, 4)
        assert "could read and postprocess 400.0 films/s" in fed
        assert word in more
        assert f"{150 / predicted:.0%}" in whole


def test_a_source_without_films_and_a_missing_bundle_are_one_line(model: str, archive: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for words, error in (
        (["segment", str(tmp_path / "empty"), "--model", model], (DatasetError, StorageError)),
        (["segment", archive, "--model", model, "--address", "127.0.0.1:9"], UsageError),
        (["predict", str(tmp_path / "nothing")], StorageError),
        (["serve", model, "--clients", "1,none"], UsageError),
    ):
        assert isinstance(CliRunner().invoke(app, ["bench", *words]).exception, error)


@pytest.mark.full
def test_train_measures_bare_steps_the_feed_and_the_run(ray_session: None, small_job: list[str]) -> None:
    """Of 5 steps of 16 films an epoch; what each round took fits into the time that the command took."""
    sets = [part for each in small_job for part in ("--set", each)]
    begin = time.perf_counter()
    document = run("train", "-c", "jobs/train.toml", *sets, "--steps", "2", "--rounds", "1")
    elapsed = time.perf_counter() - begin
    check(document, 1)
    feed, whole = document["rates"]
    assert (feed["name"], whole["name"]) == ("films from storage, no training", "train, through Ray")
    bare = sum(2 * 16 / rate for rate in document["against"]["rounds"])
    assert bare + sum(5 * 16 / rate for rate in feed["rounds"] + whole["rounds"]) < elapsed
    assert "2 workers; first batch after" in whole["note"]


@pytest.mark.full
def test_serve_is_really_asked(ray_session: None, model: str) -> None:
    document = run("serve", model, "--clients", "1,4", "--seconds", "2")
    check(document, 1)
    assert [rate["name"] for rate in document["rates"]] == ["1 clients", "4 clients"]
    for rate in document["rates"]:
        assert rate["note"].endswith(" 0 failed")


def test_numbers_of_clients() -> None:
    assert numbers("1,16,64") == (1, 16, 64)
    for text in ("", "0", "1,,2", "many"):
        with pytest.raises(UsageError, match="--clients"):
            numbers(text)

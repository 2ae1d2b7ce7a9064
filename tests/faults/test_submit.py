"""Commands as jobs on a cluster: the same result and exit code as here, and no secret on the way."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from clusters import Cluster, cluster
from runs import descendants, listening

from covseg_ray.config import train as config
from covseg_ray.engine.bundle_io import save_bundle
from covseg_ray.radiograph.masks import encode_png, encode_png1
from covseg_ray.radiograph.phantom import make_phantom
from covseg_ray.segmentation.inference.predictor import BatchPredictor
from covseg_ray.segmentation.network.bundle import Bundle

# Clusters take the same ports: one at a time.
pytestmark = [pytest.mark.xdist_group("clusters"), pytest.mark.timeout(900)]
CANARY = "canary-0a9f8e7d6c5b4a39"


@pytest.fixture(scope="module")
def here() -> Iterator[Cluster]:
    with cluster() as found:
        yield found


@pytest.fixture(scope="module")
def model(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The URI of the bundle."""
    uri = str(tmp_path_factory.mktemp("model") / "bundle")
    save_bundle(uri, bundle)
    return uri


def films(folder: Path, count: int) -> dict[str, np.ndarray]:
    """Phantoms by their file's name."""
    folder.mkdir()
    made = {f"{index:04d}.png": make_phantom(6, index, 64).image for index in range(count)}
    for name, image in made.items():
        (folder / name).write_bytes(encode_png(image))
    return made


def test_a_job_that_cannot_run_is_refused_before_anything_is_sent(tmp_path: Path) -> None:
    nowhere = Cluster("http://127.0.0.1:9", {})
    job = tmp_path / "job.toml"
    job.write_text("train.epoch = 3\n")
    search = tmp_path / "search.toml"
    search.write_text('[[search]]\nkey = "train.los"\nchoose = ["dice"]\n')
    for words, text in (
        (["submit", "train", "-c", str(job)], "did you mean train.epochs?"),
        (["submit", "tune", "-c", str(job)], "did you mean train.epochs?"),
        (["submit", "tune", "-c", str(search)], "unknown key train.los; did you mean train.loss?"),
        (["submit", "tune", "-c", os.devnull], "the job has no [[search]]"),
        (["submit", "evaluate", "bundle-alone"], "Missing argument"),
        (["submit", "segment", "films"], "Missing argument"),
        (["submit", "segment", "films", "out", "--model", "bundle", "--sideways"], "No such option: --sideways"),
    ):
        done = nowhere.command(words)
        assert (done.returncode, text in done.stderr) == (2, True), done.stderr
        assert "sending" not in done.stderr
    done = nowhere.command(["jobs", "list"])
    assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
    assert "no Ray cluster answers there" in done.stderr


def test_the_job_file_that_is_sent_gives_the_same_job(tmp_path: Path) -> None:
    words = [
        "data.labels=['COVID-19', 'Normal']",
        "name=a.b-c",
        "train.learning_rate=1e-5",
        "workers=2",
        "out=s3://b/ü",
        'search=[{key = "train.loss", choose = ["dice"]}, {key = "train.epochs", low = 2, high = 9, log = true}]',
    ]
    job = config.load(None, words)
    (tmp_path / "job.toml").write_text(config.written(job), encoding="utf-8")
    assert config.load(str(tmp_path / "job.toml")) == job
    assert config.load(None, []) != job


def test_without_the_token_nothing_is_answered(here: Cluster) -> None:
    for token in ({"RAY_AUTH_MODE": "disabled", "RAY_AUTH_TOKEN": ""}, {"RAY_AUTH_TOKEN": "0" * 64}):
        done = here.command(["jobs", "list"], **token)
        assert done.returncode == 1
        assert "the cluster wants its token" in done.stderr, done.stderr
        assert done.stderr.count("\n") == 1


def test_segment_as_a_job_ends_as_it_does_here(here: Cluster, bundle: Bundle, model: str, tmp_path: Path) -> None:
    made = films(tmp_path / "films", 20)
    (tmp_path / "films/broken.png").write_bytes(b"no film at all")
    words = ["submit", "segment", str(tmp_path / "films"), str(tmp_path / "out"), "--model", model, "--json"]
    done = here.command(words, AWS_SECRET_ACCESS_KEY=CANARY)
    assert done.returncode == 3, done.stderr
    document = json.loads(done.stdout)
    assert (document["ok"], document["rejected"]) == (20, 1)
    rows = {row["image_id"]: row for row in pq.read_table(tmp_path / "out/results").to_pylist()}
    predicted = BatchPredictor(bundle).predict(np.stack(list(made.values()))) == bundle.spec.infection
    for name, mask_HW in zip(made, predicted, strict=True):
        assert rows[name]["mask"] == encode_png1(mask_HW.astype(np.uint8))
    again = here.command(words)
    assert "MB to http" in again.stderr
    (latest, first) = json.loads(here.command(["jobs", "list", "--json"]).stdout)[:2]
    assert (latest["exit_code"], first["exit_code"]) == (3, 3)
    assert latest["command"].startswith("covseg_ray segment ")
    log = here.command(["jobs", "logs", first["id"]])
    assert "1 rejected" in log.stdout
    for text in (here.get("/api/jobs/").text, log.stdout, done.stdout, done.stderr):
        assert CANARY not in text


def test_what_is_stopped_ends_with_143_and_what_is_left_runs_on(here: Cluster, model: str, tmp_path: Path) -> None:
    films(tmp_path / "films", 3000)
    words = ["submit", "segment", str(tmp_path / "films"), str(tmp_path / "out"), "--model", model]
    submitted = here.start(words)
    deadline = time.monotonic() + 120
    while not (running := [job for job in states(here) if job["status"] == "running"]):
        assert time.monotonic() < deadline, submitted.poll()
        time.sleep(0.5)
    (job,) = running
    time.sleep(2)  # the log is being followed by now
    submitted.send_signal(signal.SIGINT)
    _, errors = submitted.communicate(timeout=60)
    assert (submitted.returncode, f"job {job['id']} keeps running" in errors) == (130, True), errors
    (still,) = (each for each in states(here) if each["id"] == job["id"])
    assert still["status"] == "running"
    stopped = here.command(["jobs", "stop", job["id"]])
    assert "stopped, exit code 143" in stopped.stdout, stopped.stderr
    assert here.command(["jobs", "wait", job["id"]]).returncode == 143
    unknown = here.command(["jobs", "wait", "nobody"])
    assert (unknown.returncode, "no job of that id" in unknown.stderr) == (2, True)


def states(here: Cluster) -> list[dict[str, object]]:
    return json.loads(here.command(["jobs", "list", "--json"]).stdout)


@pytest.mark.parametrize(("address", "code"), [("127.0.0.1:9", 1), ("http://127.0.0.1:8265", 2)])
def test_an_address_where_no_cluster_answers_is_one_line_at_once(
    address: str, code: int, model: str, tmp_path: Path
) -> None:
    films(tmp_path / "films", 2)
    begin = time.monotonic()
    done = Cluster(address, {}).command(["segment", str(tmp_path / "films"), str(tmp_path / "out"), "--model", model])
    assert time.monotonic() - begin < 60
    assert done.returncode == code, done.stderr
    assert done.stderr.splitlines()[-1].startswith(f"error: --address {address}: "), done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.drill
def test_train_and_evaluate_as_jobs(here: Cluster, phantoms: str, small_job: list[str], tmp_path: Path) -> None:
    settings = [word for setting in [*small_job, f"out={tmp_path}"] for word in ("--set", setting)]
    done = here.command(["submit", "train", "-c", os.devnull, *settings, "--json"])
    assert done.returncode == 0, done.stderr
    trained = json.loads(done.stdout)["bundle"]
    measured = here.command(["submit", "evaluate", trained, phantoms, "--json"])
    assert json.loads(measured.stdout)["images"] == 20


def test_the_tests_own_cluster_listens_on_loopback_alone(here: Cluster) -> None:
    beyond = listening(descendants(os.getpid())) - {"0100007F", "0000000000000000FFFF00000100007F"}
    assert beyond <= {"00000000000000000000000001000000"}

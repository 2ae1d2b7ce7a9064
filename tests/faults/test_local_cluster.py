"""A cluster of several nodes: every use from a shell with the token alone, and nodes that vanish while they work."""

from __future__ import annotations

import io
import json
import subprocess
import tarfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx2
import numpy as np
import pyarrow.parquet as pq
import pytest
from dicom_films import encoded, film
from local_cluster import LocalCluster, local_cluster, possible
from places import ROOT
from safetensors.numpy import load

from covseg_ray.radiograph.masks import encode_png
from covseg_ray.radiograph.phantom import make_phantom
from covseg_ray.storage.datasets.pack import synthesise

pytestmark = [
    pytest.mark.alone,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(not possible(), reason="network namespaces need Linux, root and iproute2"),
]
JOBS = ROOT / "jobs"
# A run whose result its recipe determines, not chance: a small network and small films to the end of its training, its
# weights averaged, and a loss of each film by itself: one pooled over films would see each worker's share alone.
CONVERGED = (
    "workers=[2, 4]",
    "model.architecture=linknet",
    "model.encoder=tu-test_resnet",
    "train.epochs=10",
    "train.batch_size=32",
    "train.learning_rate=0.004",
    "train.schedule=one-cycle",
    "train.average=0.98",
    "train.loss=cross-entropy+film-jaccard",
    "train.augment=flips",
)
ENDPOINT = "http://10.77.0.10:8000"
KEY = "a-key-for-this-test-alone"
PATIENT = "Zwackelmann"
# What the dashboard tells of a cluster, every job's own words and environment among it.
DASHBOARD_PATHS = (
    "/api/v0/actors?detail=1",
    "/api/v0/nodes?detail=1",
    "/api/v0/runtime_envs?detail=1",
    "/api/v0/tasks?detail=1",
    "/api/v0/workers?detail=1",
    "/api/train/v2/runs/v1",
    "/api/serve/applications/",
    "/nodes?view=summary",
    "/api/jobs/",
)


@pytest.fixture(scope="module")
def four(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    """A head and three workers; in their bucket a dataset of 100 phantoms, an archive of 40 films and a patient's."""
    with local_cluster(3) as found:
        folder = tmp_path_factory.mktemp("bucket")
        synthesise(str(folder / "phantoms"), 100, seed=7, size=64)
        (folder / "archive").mkdir()
        for index in range(40):
            (folder / f"archive/{index:04d}.png").write_bytes(encode_png(make_phantom(6, index, 64).image))
        patient = film(make_phantom(6, 40, 64).image, PatientName=f"{PATIENT}^Anna", PatientID=f"{PATIENT}-1")
        (folder / "archive/patient.dcm").write_bytes(encoded(patient))
        (folder / "archive/broken.dcm").write_bytes(encoded(patient)[:600])
        for each in ("phantoms", "archive"):
            found.storage.put(str(folder / each), f"{found.bucket}/{each}", recursive=True)
        yield found


def train_words(found: LocalCluster, name: str, *settings: str) -> list[str]:
    every = (
        f"data.dataset=s3://{found.bucket}/phantoms",
        f"out=s3://{found.bucket}/runs",
        f"name={name}",
        "workers=2",
        "seed=3",
        "model.encoder=resnet18",
        "model.encoder_weights=none",
        "train.epochs=3",
        "train.batch_size=16",
        "train.precision=fp32",
        "resources.cpus_per_worker=2",  # of a node's three: one worker on each
        *settings,
    )
    given = [word for each in every for word in ("--set", each)]
    return ["submit", "train", "-c", str(JOBS / "train.toml"), *given, "--json"]


def weights(found: LocalCluster, name: str) -> dict[str, np.ndarray]:
    return load(found.storage.cat_file(f"{found.bucket}/runs/{name}/bundle/model.safetensors"))


def same(first: dict[str, np.ndarray], second: dict[str, np.ndarray]) -> bool:
    return first.keys() == second.keys() and all(np.array_equal(first[key], second[key]) for key in first)


def rows(found: LocalCluster, out: str) -> list[dict[str, Any]]:
    return pq.read_table(f"{found.bucket}/{out}/results", filesystem=found.storage).to_pylist()


@pytest.fixture(scope="module")
def undisturbed(four: LocalCluster) -> dict[str, Any]:
    """The document of a run that nobody disturbed."""
    done = four.command(train_words(four, "undisturbed"))
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def test_every_use_with_the_token_alone_and_no_secret_anywhere(
    four: LocalCluster, undisturbed: dict[str, Any], tmp_path: Path
) -> None:
    model, bucket = undisturbed["bundle"], f"s3://{four.bucket}"
    measured = four.command(["submit", "evaluate", model, f"{bucket}/phantoms", "--json"])
    document = json.loads(measured.stdout)
    assert document["images"] == 20
    assert document["metrics"]["iou_pooled"]["value"] == pytest.approx(undisturbed["best"]["iou_pooled"], abs=1e-3)
    segmented = four.command(["submit", "segment", f"{bucket}/archive", f"{bucket}/out", "--model", model, "--json"])
    assert segmented.returncode == 3, segmented.stderr
    masks = {row["image_id"]: row["mask"] for row in rows(four, "out") if row["status"] == "ok"}
    assert len(masks) == 41

    keys = tmp_path / "keys"
    keys.write_text(f"{KEY}\n")
    words = ["submit", "serve", "-c", str(JOBS / "serve.yaml"), "--model", model, "--host", "0.0.0.0"]
    served = four.command([*words, "--keys-file", str(keys), "--detach"])
    job = served.stdout.strip()
    assert await_answer(four, "archive/0000.png", job) == masks["0000.png"]
    assert "143" in four.command(["jobs", "stop", job]).stdout
    with pytest.raises(httpx2.HTTPError):
        httpx2.get(f"{ENDPOINT}/readyz", trust_env=False).raise_for_status()

    texts = [four.get(path).text for path in DASHBOARD_PATHS]
    texts += [each for done in (measured, segmented, served) for each in (done.stdout, done.stderr)]
    texts += [four.command(["jobs", "logs", job["id"]]).stdout for job in json.loads(jobs(four))]
    texts += [path.read_bytes().decode(errors="replace") for path in logs(four)]
    texts += [str(rows(four, "out")), *(four.storage.cat_file(path).decode() for path in pages(four))]
    assert len(texts) > 100
    for seen in ("covseg_ray segment", "patient.dcm", "s3://"):
        assert any(seen in each for each in texts), seen
    for secret in (four.nodes["AWS_SECRET_ACCESS_KEY"], four.token, PATIENT, KEY):
        assert not [each[max(0, each.find(secret) - 200) :][:400] for each in texts if secret in each]


def await_answer(found: LocalCluster, path: str, job: str) -> bytes:
    """The mask of a film in the bucket, from the endpoint at the head once it is up."""
    image = found.storage.cat_file(f"{found.bucket}/{path}")
    headers, deadline = {"accept": "image/png", "authorization": f"Bearer {KEY}"}, time.monotonic() + 300
    while True:
        try:
            answer = httpx2.post(f"{ENDPOINT}/v1/segment", content=image, headers=headers, timeout=60, trust_env=False)
            if answer.status_code == 200:
                return answer.content
        except httpx2.HTTPError:
            time.sleep(1)
        assert time.monotonic() < deadline, found.command(["jobs", "logs", job]).stdout


def jobs(found: LocalCluster) -> str:
    return found.command(["jobs", "list", "--json"]).stdout


def logs(found: LocalCluster) -> list[Path]:
    """Every file that Ray keeps on the nodes, but the packages of code and the token itself."""
    state = Path(found.nodes["COVSEG_LOCAL"])
    files = [path for path in state.rglob("*") if path.is_file() and path != state / "token"]
    return [path for path in files if "runtime_resources" not in path.parts]


def pages(found: LocalCluster) -> list[str]:
    """The files of text in the bucket."""
    every = found.storage.find(found.bucket)
    return [path for path in every if path.endswith((".json", ".jsonl", ".html", ".md"))]


def test_a_driver_and_a_job_without_the_token_are_refused(four: LocalCluster) -> None:
    nothing = ("exec", "head", "env", "-u", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE=disabled", "timeout", "60")
    python = (four.nodes["PYTHON"], "-c")
    assert four.do(*nothing, *python, "print(6 * 7)") == "42\n"
    with pytest.raises(AssertionError, match=r"[Aa]uthentication|[Tt]oken"):
        four.do(*nothing, *python, "import ray; ray.init(address='10.77.0.10:6379')")
    for path in DASHBOARD_PATHS:
        assert httpx2.get(four.url + path, trust_env=False).status_code == 401
    done = four.command(["jobs", "list"], RAY_AUTH_MODE="disabled", RAY_AUTH_TOKEN_PATH="")
    assert (done.returncode, "wants no token" in done.stderr, "wants its token" in done.stderr) == (1, False, True)


def test_a_node_killed_and_one_cut_off_change_nothing(
    four: LocalCluster, undisturbed: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    losses = lose_two(four, train_words(four, "losses"), "losses")
    with capsys.disabled():
        print(f"\n{in_words(losses)}")
    assert same(weights(four, "losses"), weights(four, "undisturbed"))


class Loss(NamedTuple):
    """A node lost in the middle of an epoch: the seconds until the next epoch was done, and the workers that did it."""

    kind: str
    seconds: float
    workers: int


def in_words(losses: list[Loss]) -> str:
    return "; ".join(
        f"after a {loss.kind} {loss.workers} workers, the next epoch {loss.seconds:.0f} s" for loss in losses
    )


def lose_two(found: LocalCluster, words: list[str], name: str) -> list[Loss]:
    """Train to the end; of the nodes that train one is killed, later one cut off."""
    submitted = found.start(words)
    losses: list[Loss] = []
    lost: list[str] = []
    for epoch, kind in ((1, "kill"), (2, "cut")):
        found.await_epoch(name, epoch, submitted)
        lost.append(next(node for node in found.training_nodes() if node not in ("head", *lost)))
        found.do(kind, lost[-1])
        begin = time.monotonic()
        found.await_epoch(name, epoch + 1, submitted)
        seconds = time.monotonic() - begin
        losses.append(Loss(kind, seconds, len(set(found.training_nodes()) - set(lost))))
    _, errors = submitted.communicate(timeout=900)
    assert submitted.returncode == 0, errors
    for node in lost:
        found.do("join", node)
    return losses


@pytest.mark.drill
def test_fewer_workers_go_on_at_the_same_global_batch(
    four: LocalCluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    synthesise(str(tmp_path / "many"), 8000, seed=7, size=32)
    four.storage.put(str(tmp_path / "many"), f"{four.bucket}/many", recursive=True)
    settings = (f"data.dataset=s3://{four.bucket}/many", *CONVERGED)
    quiet = four.start(train_words(four, "four-workers", *settings))
    _, errors = quiet.communicate(timeout=900)
    assert quiet.returncode == 0, errors
    losses = lose_two(four, train_words(four, "fewer-workers", *settings), "fewer-workers")
    scores = [iou(four, name) for name in ("four-workers", "fewer-workers")]
    with capsys.disabled():
        print(f"\niou_two_class {scores[0]:.4f}; with two of the four nodes lost {scores[1]:.4f}; {in_words(losses)}")
    assert [loss.workers for loss in losses] == [3, 2]
    assert abs(scores[0] - scores[1]) <= 0.005


def iou(found: LocalCluster, name: str) -> float:
    model = json.loads(found.storage.cat_file(f"{found.bucket}/runs/{name}/bundle/model.json"))
    return float(model["metrics"]["iou_two_class"]["value"])


@pytest.mark.drill
def test_the_drivers_node_killed_and_the_same_command_given_again(
    four: LocalCluster, undisturbed: dict[str, Any]
) -> None:
    words = train_words(four, "driver")
    submitted = four.start(words)
    four.await_epoch("driver", 1, submitted)
    four.do("kill", "head")
    _, errors = submitted.communicate(timeout=300)
    assert submitted.returncode == 1, errors
    assert four.epochs("driver") < 3
    for node in ("head", "worker1", "worker2", "worker3"):
        four.do("join", node)
    deadline = time.monotonic() + 300
    while (done := four.command(words)).returncode == 75:  # until the dead driver's lease has run out
        assert time.monotonic() < deadline, done.stderr
    assert done.returncode == 0, done.stderr
    assert same(weights(four, "driver"), weights(four, "undisturbed"))


@pytest.mark.drill
def test_five_nodes_killed_and_every_film_once(four: LocalCluster, undisturbed: dict[str, Any]) -> None:
    count = 6000
    four.storage.pipe_file(f"{four.bucket}/films.tar", tar_of_phantoms(count))
    words = ["submit", "segment", f"s3://{four.bucket}/films.tar"]
    model = ["--model", undisturbed["bundle"], "--json"]
    assert four.command([*words, f"s3://{four.bucket}/quiet", *model]).returncode == 0
    submitted, done = four.start([*words, f"s3://{four.bucket}/killed", *model]), 0
    for kill in range(5):
        await_more(four, "killed", done, submitted)
        node = f"worker{kill % 3 + 1}"
        four.do("kill", node)
        done = finished(four, "killed")
        four.do("join", node)
    output, errors = submitted.communicate(timeout=900)
    assert submitted.returncode == 0, errors
    assert json.loads(output)["ok"] == count
    quiet, killed = ([(row["image_id"], row["mask"]) for row in rows(four, out)] for out in ("quiet", "killed"))
    assert set(Counter(name for name, _ in killed).values()) == {1}
    assert sorted(killed) == sorted(quiet)
    assert len(killed) == count


def tar_of_phantoms(count: int) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for index in range(count):
            data = encode_png(make_phantom(8, index % 97, 64).image)
            member = tarfile.TarInfo(f"{index:05d}.png")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return packed.getvalue()


def finished(found: LocalCluster, out: str) -> int:
    return len(found.storage.glob(f"{found.bucket}/{out}/results/*.parquet"))


def await_more(found: LocalCluster, out: str, done: int, submitted: subprocess.Popen[str]) -> None:
    """Wait until more blocks are finished than ``done``."""
    deadline = time.monotonic() + 300
    while finished(found, out) <= done:
        assert submitted.poll() is None, submitted.communicate()
        assert time.monotonic() < deadline, "no block was finished"
        time.sleep(0.2)

"""The tiers of the tests, and what several test files share: a bucket, a Ray session, the real films, a ready model, a
small dataset of phantoms. docs/develop/testing.md describes the tiers."""

from __future__ import annotations

import os
import secrets
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

if "PYTEST_XDIST_WORKER" in os.environ:
    # Several tests run at a time, and threads of theirs beyond the cores would wait for each other. torch reads this
    # when it is imported, and ONNX Runtime and OpenVINO get as many threads as torch has.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    # Ray's processes would otherwise wait for the tests that run beside them.
    os.environ.setdefault("RAY_worker_niceness", "0")

import hypothesis
import pytest
from places import REAL_FILMS, ROOT
from training_runs import Run, run_job
from xdist.scheduler import LoadFileScheduling

HERE = Path(__file__).parent
# Only in `make test-full`: tests that kill processes or start clusters, the browser, a second training run, 8-bit
# models, the search of hyperparameters, and the metrics of a training run, an archive and an endpoint in turn.
FULL_FOLDERS = {HERE / "faults"}
FULL_FIXTURES = {"browser", "in_bucket", "int8", "searched", "watched"}
# Files of one worker: those of one Ray session, and those that start clusters, of which there must not be two at once.
GROUPS = {"clusters": ('xdist_group("clusters")',), "ray": ("ray_session", "undisturbed: Run")}
# The first example of a property pays for the imports of what it tests: its time says nothing.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")


@pytest.fixture(scope="session")
def real_films() -> Path:
    """COVID-QU-Ex in its published layout."""
    if not REAL_FILMS.exists():
        pytest.skip("the COVID-QU-Ex films are not on this machine")
    return REAL_FILMS


@pytest.fixture(scope="session")
def s3_server() -> Iterator[None]:
    """The S3 server at AWS_ENDPOINT_URL, or moto's, started here on loopback."""
    if os.environ.get("AWS_ENDPOINT_URL"):
        yield
        return
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    ours = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    before = {key: os.environ.get(key) for key in ours}
    os.environ.update(ours)
    yield
    for key, value in before.items():
        if value is None:
            del os.environ[key]
        else:
            os.environ[key] = value
    server.stop()


@pytest.fixture(scope="session")
def bucket(s3_server: None) -> Iterator[str]:
    """The URI of a new, empty bucket; emptied and removed at the end."""
    import s3fs

    fs = s3fs.S3FileSystem(endpoint_url=os.environ["AWS_ENDPOINT_URL"], use_listings_cache=False)
    name = f"covseg-test-{secrets.token_hex(4)}"
    fs.mkdir(name)
    yield f"s3://{name}"
    fs.rm(name, recursive=True)


@pytest.fixture(scope="session")
def ray_session(s3_server: None) -> Iterator[None]:
    """One Ray for all the tests that need one; its workers inherit the address of the bucket's server."""
    from covseg_ray.engine.session import session

    with session(workers=2):
        yield


@pytest.fixture(scope="session")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A dataset of 100 phantoms of 64 pixels a side: 80 in train, 20 in val."""
    from covseg_ray.storage.datasets.pack import synthesise

    dataset = str(tmp_path_factory.mktemp("phantoms") / "dataset")
    synthesise(dataset, 100, seed=7, size=64)
    return dataset


@pytest.fixture(scope="session")
def small_job(phantoms: str) -> list[str]:
    """The ``--set`` values of a run that takes seconds: 2 workers, 4 epochs of 5 steps."""
    return [
        f"data.dataset={phantoms}",
        "name=small",
        "workers=2",
        "seed=3",
        "model.encoder=tu-test_resnet",
        "model.encoder_weights=none",
        "train.epochs=4",
        "train.batch_size=16",
        "train.precision=fp32",
        "train.average=0.9",
    ]


@pytest.fixture(scope="session")
def undisturbed(ray_session: None, small_job: list[str], tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The small job, run once without a hitch."""
    return run_job([*small_job, f"out={tmp_path_factory.mktemp('undisturbed')}"])


@pytest.fixture(scope="session")
def ready_bundle(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The URI of a model with random weights that finds infection on about half of each phantom of 64 pixels a side."""
    from random_models import random_model

    from covseg_ray.engine.bundle_io import save_bundle

    uri = str(tmp_path_factory.mktemp("ready") / "bundle")
    save_bundle(uri, random_model(6, ("background", "infection")))
    return uri


@pytest.fixture(scope="session")
def bundle() -> Any:
    """A model that finds something on about half of each phantom, for the endpoint's tests."""
    from near_ties import undecided_on_phantoms

    return undecided_on_phantoms(64)


@pytest.fixture(scope="session")
def predict(bundle: Any) -> Any:
    """That model in this process, as the endpoint asks for one."""
    from endpoints import InProcess

    return InProcess(bundle)


@pytest.fixture
def two_threads() -> Iterator[None]:
    """For what is equal bit for bit on two threads and not on one, where oneDNN computes depthwise layers otherwise."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def counts() -> Any:
    from endpoints import Counts

    return Counts()


@pytest.fixture
def client(predict: Any, counts: Any) -> Iterator[Any]:
    """A caller on this machine, of an endpoint with small limits."""
    from starlette.testclient import TestClient

    from covseg_ray.service.app import create_app
    from covseg_ray.service.backend import Settings

    app = create_app(predict, Settings(max_body_bytes=2**20, max_films=3, max_pixels=10**6), counts)
    with TestClient(app, raise_server_exceptions=False, client=("127.0.0.1", 50000)) as client:
        yield client


def pytest_configure() -> None:
    """Some tests press Ctrl-C; a shell starts background work with SIGINT ignored, which commands inherit."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark each test by its fixtures and its folder: its tier, whether it needs a bucket, and who may run it."""
    for item in items:
        fixtures = set(getattr(item, "fixturenames", ()))
        if FULL_FIXTURES & fixtures or FULL_FOLDERS & set(item.path.parents):
            item.add_marker("full")
        if "ray_session" in fixtures:
            item.add_marker(pytest.mark.xdist_group("ray"))
        only_for_ray = "ray_session" in fixtures and "bucket" not in fixtures
        if "[s3" in item.name or (fixtures & {"bucket", "s3_server"} and not only_for_ray):
            item.add_marker("s3")
    # Groups take longest: the workers begin with them. Those of one session share it.
    items.sort(key=lambda item: item.get_closest_marker("xdist_group") is None)


class GroupsAndFiles(LoadFileScheduling):
    """One worker runs the tests of a file, which share its fixtures; one runs all files that need Ray, and share it.

    By the files' text: the scheduler knows no fixtures, and xdist's own groups need a pytest before 9.2.
    """

    def _split_scope(self, nodeid: str) -> str:
        file = super()._split_scope(nodeid)
        text = (ROOT / file).read_text(encoding="utf-8")
        return next((group for group, words in GROUPS.items() if any(word in text for word in words)), file)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> GroupsAndFiles:
    return GroupsAndFiles(config, log)

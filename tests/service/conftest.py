from __future__ import annotations

from collections.abc import Iterator

import pytest
from endpoints import Counts, InProcess, undecided
from starlette.testclient import TestClient

from covseg_ray.segmentation.bundle import Bundle
from covseg_ray.service.app import create_app
from covseg_ray.service.settings import Settings

HERE = ("127.0.0.1", 50000)


@pytest.fixture(scope="session")
def bundle() -> Bundle:
    return undecided()


@pytest.fixture(scope="session")
def predict(bundle: Bundle) -> InProcess:
    return InProcess(bundle)


@pytest.fixture
def counts() -> Counts:
    return Counts()


@pytest.fixture
def client(predict: InProcess, counts: Counts) -> Iterator[TestClient]:
    settings = Settings(max_body_bytes=2**20, max_films=3, max_pixels=10**6)
    with TestClient(create_app(predict, settings, counts), raise_server_exceptions=False, client=HERE) as client:
        yield client

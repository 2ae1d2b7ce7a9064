"""What several test files share: a bucket, a Ray session, the real films, a small dataset of phantoms."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

REAL_FILMS = Path(__file__).parents[2] / "shared/data/covid-qu-ex"


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
def ray_session() -> Iterator[None]:
    """One Ray for all the tests that need one."""
    from covseg_ray.engine.runtime import session

    with session(workers=2):
        yield

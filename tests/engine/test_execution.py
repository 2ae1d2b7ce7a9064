"""What Ray Data is told of storage that is away."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import ray
from botocore.exceptions import (
    ConnectionClosedError,
    ConnectTimeoutError,
    EndpointConnectionError,
    NoCredentialsError,
    ReadTimeoutError,
)

from covseg_ray.engine import execution
from covseg_ray.storage.filesystem import translated

AWAY = [ConnectTimeoutError, EndpointConnectionError, ReadTimeoutError, ConnectionClosedError]


def reader(error: Exception, marks: Path) -> Callable[[dict[str, int]], dict[str, int]]:
    """What fails with ``error`` once for every row, as storage does; defined here so that it pickles by value."""

    def read(row: dict[str, int]) -> dict[str, int]:
        mark = marks / str(row["id"])
        if not mark.exists():
            mark.touch()
            with translated("s3://bucket/film"):
                raise error
        return row

    return read


@pytest.mark.parametrize("kind", AWAY)
def test_a_task_tries_again_where_storage_is_away(ray_session: None, tmp_path: Path, kind: type[Exception]) -> None:
    error = kind(endpoint_url="http://127.0.0.1:9", error="refused")
    with ray.data.DataContext.current(execution.context(execution.Rest)):
        films = ray.data.range(2).map(reader(error, tmp_path))
    assert sorted(row["id"] for row in films.take_all()) == [0, 1]
    assert len(list(tmp_path.iterdir())) == 2


def test_a_task_ends_at_once_where_storage_refuses(ray_session: None, tmp_path: Path) -> None:
    with ray.data.DataContext.current(execution.context(execution.Rest)):
        films = ray.data.range(1).map(reader(NoCredentialsError(), tmp_path))
    with pytest.raises(ray.exceptions.RayTaskError, match="after 1/8 attempts"):
        films.take_all()

"""The settings of Ray Data: for storage that is away, and for actors that wait for films."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import ray
from botocore.exceptions import (
    ConnectionClosedError,
    ConnectTimeoutError,
    EndpointConnectionError,
    NoCredentialsError,
    ReadTimeoutError,
)

from covseg_ray.engine import data_context as execution
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


def late_films(due: float) -> Callable[[dict[str, int]], dict[str, int]]:
    """The first comes when it is due, the others two seconds later."""

    def late(row: dict[str, int]) -> dict[str, int]:
        time.sleep(max(0.0, due + 2 * (row["id"] > 0) - time.time()))
        return row

    return late


def predicting(births: Path) -> type[Any]:
    """An actor that leaves a file when it is born."""

    class Predicting:
        def __init__(self) -> None:
            (births / str(time.time_ns())).touch()

        def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
            time.sleep(4)
            return batch

    return Predicting


@pytest.mark.full
def test_an_actor_that_waits_for_its_first_films_is_not_ended_and_born_again(ray_session: None, tmp_path: Path) -> None:
    due = time.time() + 15  # Ray Data ends no actor in the first 10 s
    pool = ray.data.ActorPoolStrategy(min_size=1, max_size=2, initial_size=2)
    with ray.data.DataContext.current(execution.context(execution.Rest)):
        films = ray.data.range(4, override_num_blocks=4)
        films = films.map(late_films(due), num_cpus=0.5)  # not that of an actor, or these would do it
        films = films.map_batches(predicting(tmp_path), compute=pool)
    assert sorted(row["id"] for row in films.take_all()) == [0, 1, 2, 3]
    assert len(list(tmp_path.iterdir())) == 2

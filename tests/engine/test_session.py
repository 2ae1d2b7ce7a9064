"""A session of Ray's in this process."""

from __future__ import annotations

import time

import pytest
import ray
from ray._private.utils import push_error_to_driver

from covseg_ray.engine.session import session


def test_what_ray_tells_while_a_command_runs_is_no_result(
    ray_session: None, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ray prints the warnings of its processes to standard output, in a session that ran before as in a new one."""
    lines, deadline = "", time.monotonic() + 30
    with session():
        push_error_to_driver(ray._private.worker.global_worker, "warning", "a worker is late")
        while "a worker is late" not in lines:
            assert time.monotonic() < deadline
            time.sleep(0.05)
            output, errors = capsys.readouterr()
            assert output == ""
            lines += errors

"""A session of Ray's in this process."""

from __future__ import annotations

import subprocess
import sys
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


SLOW_RAY = """
import sys
import ray
from covseg_ray.engine.session import session
from covseg_ray.errors import CovsegError
real, failures = ray.init, int(sys.argv[1])
def init(**given):
    global failures
    failures -= 1
    if failures >= 0:
        raise Exception("The current node timed out during startup. This could happen because")
    return real(**given)
ray.init = init
try:
    with session():
        result = ray.get(ray.remote(lambda: 42).remote())
    print(result)
except CovsegError as error:
    print(error)
"""


@pytest.mark.parametrize(
    ("failures", "printed"),
    [
        pytest.param(1, "42", marks=pytest.mark.full),
        (2, "Ray did not start in 30 s, twice: end other programs that keep the CPUs busy, and try again"),
    ],
)
def test_a_start_that_is_too_slow_is_tried_again(failures: int, printed: str) -> None:
    words = [sys.executable, "-c", SLOW_RAY, str(failures)]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert done.stdout == f"{printed}\n"

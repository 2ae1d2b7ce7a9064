"""The decoding child ends with its parent, however that ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
from decoder_films import FILM, as_image, ended

PARENT = """
import os, sys, time
from covseg_ray.radiograph.decoder_process import DecodingChild
child = DecodingChild(seconds=3)
child.decode(b"no film")
print(child.pid, flush=True)
if sys.argv[1] == "forks" and not os.fork():
    time.sleep(60)
if sys.argv[1] != "leaves":
    sys.stdin.readline()
    child.decode(open(sys.argv[2], "rb").read())
"""


@contextmanager
def parent_and_child(how: str, data: bytes, folder: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """Another process with a child of its own, in its own process group; it decodes `data` when a line arrives."""
    path = folder / "film"
    path.write_bytes(data)
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, how, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert parent.stdout is not None
        yield parent, int(parent.stdout.readline())
    finally:
        with suppress(ProcessLookupError):
            os.killpg(parent.pid, signal.SIGKILL)
        parent.communicate()


@pytest.mark.parametrize("how", ["waits", "forks"])
def test_the_child_ends_with_a_parent_that_is_killed(how: str, tmp_path: Path) -> None:
    """Also where a process that the parent forked keeps the child's socket open."""
    with parent_and_child(how, FILM, tmp_path) as (parent, pid):
        assert not ended(pid, 0.3)
        parent.kill()
        assert ended(pid, 6)


def test_the_child_ends_with_a_parent_that_leaves_it(tmp_path: Path) -> None:
    with parent_and_child("leaves", FILM, tmp_path) as (parent, pid):
        assert parent.wait(20) == 0
        assert ended(pid, 6)


def start_decoding(parent: subprocess.Popen[str], pid: int) -> None:
    """The child has the film, and is stopped before it looks at it."""
    os.kill(pid, signal.SIGSTOP)
    assert parent.stdin is not None
    parent.stdin.write("go\n")
    parent.stdin.flush()
    time.sleep(0.5)


def test_the_child_ends_with_a_parent_that_is_killed_during_a_film(tmp_path: Path) -> None:
    with parent_and_child("waits", FILM, tmp_path) as (parent, pid):
        start_decoding(parent, pid)
        parent.kill()
        os.kill(pid, signal.SIGCONT)
        assert ended(pid, 6)


def test_a_child_that_gets_no_further_ends_by_itself(tmp_path: Path) -> None:
    """Its parent is there, but neither takes the answer nor ends it."""
    small_film_large_answer = as_image(np.zeros((3000, 3000), np.uint8), "PNG")
    with parent_and_child("waits", small_film_large_answer, tmp_path) as (parent, pid):
        start_decoding(parent, pid)
        parent.send_signal(signal.SIGSTOP)
        os.kill(pid, signal.SIGCONT)
        assert not ended(pid, 1)
        assert ended(pid, 10)

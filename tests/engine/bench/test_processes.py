"""An object in a process of its own: its answers, its environment, its errors and its end."""

from __future__ import annotations

import os

import pytest
from process_counter import NAME, Counter

from covseg_ray.engine.bench.processes import in_process
from covseg_ray.errors import CovsegError, UsageError


def test_it_lives_elsewhere_keeps_its_state_and_ends_with_the_block(capfd: pytest.CaptureFixture[str]) -> None:
    with in_process(Counter, 5, variables={NAME: "there"}) as ask:
        first, process, variable = ask("add", 1)
        second, again, _ = ask("add", 10)
        assert (first, second, variable) == (6, 16, "there")
        assert process == again != os.getpid()
        assert NAME not in os.environ
        with pytest.raises(UsageError, match="what it is asked for cannot be"):
            ask("refuse")
        assert ask("add", 0)[0] == 16
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)
    assert capfd.readouterr().out == ""


def test_its_death_is_an_error_of_one_line() -> None:
    with (
        in_process(Counter, 0, variables={}) as ask,
        pytest.raises(CovsegError, match="the process that measures died"),
    ):
        ask("die")

"""An object for a process of its own; a module, because that process has to import it."""

from __future__ import annotations

import os
import signal

from covseg_ray.errors import UsageError

NAME = "COVSEG_RAY_TEST_IN_PROCESS"


class Counter:
    def __init__(self, start: int) -> None:
        self.count = start

    def add(self, number: int) -> tuple[int, int, str]:
        print("this goes to standard error")
        self.count += number
        return self.count, os.getpid(), os.environ.get(NAME, "")

    def refuse(self) -> None:
        raise UsageError("what it is asked for cannot be")

    def die(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

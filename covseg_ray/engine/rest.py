"""A pause in Ray Data's scheduling; apart from the stream, so that tasks without torch need not load it."""

from __future__ import annotations

import time

from ray.data._internal.execution.execution_callback import ExecutionCallback

REST_SECONDS = 0.05


class Rest(ExecutionCallback):
    """Lets the loop that schedules Ray Data's tasks rest between its turns.

    While films are ready faster than they are trained on, that loop has no task to wait for and turns without pause: a
    whole core, taken from the training step in whose process it runs.
    """

    def on_execution_step(self, executor: object) -> None:
        time.sleep(REST_SECONDS)

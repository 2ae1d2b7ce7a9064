"""Ray Data's settings for a run; a module of its own, so that tasks without torch need not import the loader."""

from __future__ import annotations

import time

from ray.data import DataContext
from ray.data._internal.execution.execution_callback import ExecutionCallback

REST_SECONDS = 0.05
# Of botocore's error where a server was not reached. A task waits for one that is away before it ends the run: Ray
# draws the waits from up to 2, 4, 8, 16 and thrice 32 seconds, 63 s on average, 126 at most.
UNREACHABLE = ["endpoint URL"]
RETRIES = 7
# The share of a pool's actors below which Ray Data ends one. At its own half, the second of two actors ends when the
# first film comes, and is started anew with the next.
DOWNSCALING_SHARE = 0.25


class Rest(ExecutionCallback):
    """Lets the loop that schedules Ray Data's tasks rest between its turns.

    While films are ready faster than they are trained on, that loop has no task to wait for and turns without pause: a
    whole core, taken from the training step in whose process it runs.
    """

    def on_execution_step(self, executor: object) -> None:
        time.sleep(REST_SECONDS)


def context(callback: type[Rest]) -> DataContext:
    """Ray Data's settings for one execution, which calls ``callback`` at every turn of its loop."""
    settings = DataContext.get_current().copy()
    settings.enable_progress_bars = False
    settings.custom_execution_callback_classes = [callback]
    settings.retried_map_errors, settings.max_map_retries = UNREACHABLE, RETRIES
    settings.autoscaling_config.actor_pool_util_downscaling_threshold = DOWNSCALING_SHARE
    settings.raise_original_map_exception = True  # the one that Ray wraps it in loses it on its way here
    return settings

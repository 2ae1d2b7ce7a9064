"""A coverage plugin: what Ray's workers run is measured although Ray ends them without a chance to say goodbye.

coverage.py writes at exit, and Ray Train kills its workers. So each worker writes what is new every second.
"""

from __future__ import annotations

import sys
import threading
import time
from typing import Any

SECONDS = 1.0


def coverage_init(registry: Any, options: dict[str, Any]) -> None:
    """Called by coverage.py in every process that it measures."""
    if any(argument.endswith("default_worker.py") for argument in sys.orig_argv):
        threading.Thread(target=_keep_saving, daemon=True).start()


def _keep_saving() -> None:
    from coverage import Coverage

    while True:
        time.sleep(SECONDS)
        if measuring := Coverage.current():
            measuring.save()

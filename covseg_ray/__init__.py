"""Segment COVID-19 infection on chest X-rays, at the scale of an archive.

The names of ``__all__`` are the public API; everything else may change. They are imported when they are first used, so
that ``import covseg_ray`` loads neither torch nor Ray.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from covseg_ray.api import Prediction, Predictor, evaluate, segment
    from covseg_ray.engine.bundle_io import load_bundle
    from covseg_ray.errors import (
        BusyError,
        ConfigError,
        CovsegError,
        DatasetError,
        ModelError,
        RejectedFilmError,
        StorageError,
        TooManyRejectsError,
        UsageError,
    )
    from covseg_ray.service.client import Client

__version__ = "0.1.0"

__all__ = [
    "BusyError",
    "Client",
    "ConfigError",
    "CovsegError",
    "DatasetError",
    "ModelError",
    "Prediction",
    "Predictor",
    "RejectedFilmError",
    "StorageError",
    "TooManyRejectsError",
    "UsageError",
    "__version__",
    "evaluate",
    "load_bundle",
    "segment",
]

_MODULES = {
    "Client": "covseg_ray.service.client",
    "Prediction": "covseg_ray.api",
    "Predictor": "covseg_ray.api",
    "evaluate": "covseg_ray.api",
    "load_bundle": "covseg_ray.engine.bundle_io",
    "segment": "covseg_ray.api",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(import_module(_MODULES.get(name, "covseg_ray.errors")), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

"""Makes ``segmentation_models_pytorch`` importable beside a CPU build of torch.

The library imports torchvision, whose ordinary wheel carries compiled operators for the CUDA build of torch. Beside a
CPU build they cannot be loaded, and torchvision then stops at ``operator torchvision::nms does not exist`` although
nothing here uses it. Declaring the two operators it asks about lets the import pass; their names stay without a body.
"""

from __future__ import annotations

import functools
import gc
import importlib.util
import sys
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

_LIBRARY = "segmentation_models_pytorch"
_ABSENT = ("nms", "qnms")
_SIGNATURE = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"


@functools.cache
def ensure_operators() -> tuple[Any, ...]:
    """Load torchvision's compiled operators, or declare the two that its import needs.

    Call it before anything imports torchvision; again costs nothing. The returned libraries are kept by the cache:
    a declaration lives only as long as its ``Library`` object.
    """
    spec = importlib.util.find_spec("torchvision")
    if spec is None or hasattr(torch.ops.torchvision, "nms") or _load_compiled(spec.submodule_search_locations or ()):
        return ()
    torch_library: Any = torch.library
    library = torch_library.Library("torchvision", "FRAGMENT")
    for name in _ABSENT:
        if not hasattr(torch.ops.torchvision, name):
            library.define(name + _SIGNATURE)
    return (library,)


def _load_compiled(folders: Iterable[str]) -> bool:
    torch_ops: Any = torch.ops
    for library in (path for folder in folders for path in sorted(Path(folder).glob("_C*"))):
        try:
            torch_ops.load_library(str(library))
        except OSError:
            continue
        return True
    return False


def smp() -> ModuleType:
    """``segmentation_models_pytorch``, imported on first use: it takes a second.

    What it brings stays until the process ends. The garbage collector is kept from looking through it, which costs
    half a second while it comes and nearly one at the end.
    """
    if _LIBRARY in sys.modules:
        return importlib.import_module(_LIBRARY)
    ensure_operators()
    collects = gc.isenabled()
    gc.disable()
    try:
        library = importlib.import_module(_LIBRARY)
    finally:
        if collects:
            gc.enable()
    gc.freeze()
    return library

"""Checks of the machine a run would use: each is one function that gives one finding and leaves nothing behind."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import platform
import secrets
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from covseg_ray import __version__
from covseg_ray.errors import ModelError, StorageError, first_line

GIB = 1024**3
OLDEST_PYTHON = (3, 10)
RAY_SERIES = "2.60"
SHARED_MEMORY = Path("/dev/shm")
NVIDIA_DRIVER = Path("/proc/driver/nvidia/version")
ROOMS = ("covseg_ray.engine.training.run", "covseg_ray.engine.bulk.run")
INSTALL = "pip install -e . -c constraints.txt"


@dataclass(frozen=True, slots=True)
class Finding:
    """``advice`` says what to do and is empty where nothing is; ``node`` is the node of a cluster that it is about."""

    name: str
    status: Literal["ok", "warn", "fail"]
    detail: str
    advice: str = ""
    node: str = ""


def examine(storage: str | None) -> list[Finding]:
    """Every check, in the order in which a failure would hide the next; of storage where it is given."""
    findings = [
        python(),
        package(),
        torch_build(),
        cuda(),
        torchvision(),
        segmentation_models(),
        ray_version(),
        shared_memory(),
        encoder_weights(),
    ]
    return findings if storage is None else [*findings, storage_works(storage)]


def python() -> Finding:
    if sys.version_info[:2] < OLDEST_PYTHON:
        return Finding("Python", "fail", platform.python_version(), "make the environment with Python 3.10 or later")
    return Finding("Python", "ok", platform.python_version())


def package() -> Finding:
    """Import what a job runs, and with it every library that it needs."""
    try:
        for room in ROOMS:
            importlib.import_module(room)
    except (ImportError, OSError, RuntimeError) as error:
        return Finding("covseg-ray", "fail", first_line(error), INSTALL)
    return Finding("covseg-ray", "ok", __version__)


def torch_build() -> Finding:
    try:
        import torch
    except (ImportError, OSError) as error:
        return Finding("torch", "fail", first_line(error), INSTALL)
    build = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU"
    return Finding("torch", "ok", f"{torch.__version__}, {build} build")


def cuda() -> Finding:
    try:
        import torch
    except (ImportError, OSError):
        return Finding("CUDA", "fail", "unknown without torch", "install torch first")
    if torch.cuda.is_available():
        count = torch.cuda.device_count()
        memory = torch.cuda.get_device_properties(0).total_memory / GIB
        return Finding("CUDA", "ok", f"{count} x {torch.cuda.get_device_name(0)}, {memory:.0f} GiB")
    if NVIDIA_DRIVER.exists():
        advice = "install a CUDA build of torch that fits the driver (nvidia-smi shows it)"
        return Finding("CUDA", "warn", "this machine has an NVIDIA driver, but torch cannot use it", advice)
    return Finding("CUDA", "ok", "no device: the CPU is used")


def torchvision() -> Finding:
    try:
        from covseg_ray.segmentation.network.torchvision_operators import ensure_operators

        declared = ensure_operators()
        library = importlib.import_module("torchvision")
    except (ImportError, OSError, RuntimeError) as error:
        return Finding("torchvision", "fail", first_line(error), "install the torchvision made for this torch")
    how = "its compiled operators absent, which nothing here needs" if declared else "with its compiled operators"
    return Finding("torchvision", "ok", f"{library.__version__}, {how}")


def segmentation_models() -> Finding:
    name = "segmentation-models-pytorch"
    try:
        from covseg_ray.segmentation.network.torchvision_operators import smp

        return Finding(name, "ok", str(smp().__version__))
    except (ImportError, OSError, RuntimeError) as error:
        return Finding(name, "fail", first_line(error), INSTALL)


def ray_version() -> Finding:
    try:
        version = importlib.metadata.version("ray")
    except importlib.metadata.PackageNotFoundError:
        return Finding("Ray", "fail", "not installed", INSTALL)
    if version.startswith(f"{RAY_SERIES}."):
        return Finding("Ray", "ok", version)
    return Finding(
        "Ray", "fail", f"{version}, needed is {RAY_SERIES}", f'pip install "ray[data,train,serve]~={RAY_SERIES}.0"'
    )


def shared_memory() -> Finding:
    """Ray keeps its objects in ``/dev/shm``, by default in 30 % of memory; with less it falls back to slow files."""
    if not SHARED_MEMORY.exists():
        return Finding("/dev/shm", "warn", "absent", "Ray will keep objects in /tmp, which is slower")
    size = shutil.disk_usage(SHARED_MEMORY).total
    needed = min(2 * GIB, int(0.3 * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")))
    if size >= needed:
        return Finding("/dev/shm", "ok", f"{size / GIB:.1f} GiB")
    advice = "give a container more, as docker run --shm-size=4g, or Ray keeps objects in /tmp, which is slower"
    return Finding("/dev/shm", "warn", f"{size / GIB:.1f} GiB, wanted are {needed / GIB:.1f}", advice)


def storage_works(uri: str) -> Finding:
    """Write, read and delete a small file below ``uri``; nothing of it stays."""
    from covseg_ray.storage.filesystem import delete, join, locate, read_bytes, write_bytes

    data, name = secrets.token_bytes(64), f".covseg-ray-doctor-{secrets.token_hex(4)}"
    try:
        place = locate(uri).uri
        probe = join(place, name)
        write_bytes(probe, data)
        same = read_bytes(probe) == data
        delete(probe)
    except StorageError as error:  # about the folder: in the same words on every node
        return Finding("storage", "fail", " ".join(str(error).replace(f"/{name}", "").split()))
    if same:
        return Finding("storage", "ok", f"{place} can be written, read and deleted")
    return Finding(
        "storage", "fail", f"{place} gave back other bytes than were written", "check the server and any proxy"
    )


def encoder_weights() -> Finding:
    try:
        from covseg_ray.segmentation.network.weights import require_imagenet

        require_imagenet("imagenet", "resnet34")
    except ModelError as error:
        return Finding("encoder weights", "warn", str(error))
    except (ImportError, OSError, RuntimeError) as error:
        return Finding("encoder weights", "fail", first_line(error), "install segmentation-models-pytorch first")
    return Finding("encoder weights", "ok", "ImageNet weights for resnet34 are cached or can be fetched")

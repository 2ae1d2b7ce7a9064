"""A training run as a user starts it, in a process of its own, and ways to end parts of it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

TRAINER = "ray::RayTrainWorker"


class Command:
    """``covseg-ray`` with its words, a child of the test; the end of its ``with`` block is the end of it."""

    def __init__(self, words: Iterable[str], scratch: Path) -> None:
        self.errors = scratch / "stderr.txt"
        with self.errors.open("w") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "covseg_ray", *words, "--json"],
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                start_new_session=True,
            )

    def __enter__(self) -> Command:
        return self

    def __exit__(self, *raised: object) -> None:
        self.kill()

    def finish(self, timeout: float = 240) -> tuple[int, str, str]:
        """Exit code, standard output and standard error."""
        output, _ = self.process.communicate(timeout=timeout)
        return self.process.returncode, output, self.errors.read_text()

    def kill(self) -> None:
        """SIGKILL the command and every process that descends from it."""
        kill_family(self.process)

    def interrupt(self, number: signal.Signals) -> tuple[int, str]:
        """Send the command itself a signal, and give its exit code and standard error."""
        send(self.process.pid, number)
        code, _, errors = self.finish(60)
        return code, errors

    def workers(self, begin: str) -> list[int]:
        """Ray's processes below the command whose title begins so."""
        return [pid for pid in descendants(self.process.pid) if title(pid).startswith(begin)]

    def kill_a_trainer(self) -> None:
        """SIGKILL one of the training workers."""
        trainers = self.workers(TRAINER)
        assert trainers, "no training worker to kill"
        send(trainers[-1], signal.SIGKILL)

    def await_epoch(self, folder: Path, epoch: int, timeout: float = 240) -> None:
        """Wait until ``epoch`` stands in ``metrics.jsonl``: the next one has begun."""
        deadline = time.monotonic() + timeout
        while len(epochs(folder)) < epoch:
            assert self.process.poll() is None, self.errors.read_text()
            assert time.monotonic() < deadline, "waited too long"
            time.sleep(0.02)


# 127.0.0.1, ::ffff:127.0.0.1 and ::1, as the kernel writes them.
LOOPBACK = {"0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000"}


def train_words(settings: Iterable[str]) -> list[str]:
    """The words of ``covseg-ray train`` with these settings and no job file to speak of."""
    return ["train", "-c", os.devnull, *(word for setting in settings for word in ("--set", setting))]


def descendants(pid: int) -> list[int]:
    """Every process below ``pid``, by /proc."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (parent := parent_of(entry)) is not None:
            children.setdefault(parent, []).append(int(entry.name))
    found, waiting = [], [pid]
    while waiting:
        below = children.get(waiting.pop(), [])
        found.extend(below)
        waiting.extend(below)
    return found


def kill_family(process: subprocess.Popen[Any]) -> None:
    """SIGKILL a process that still runs and every one that descends from it."""
    family = [process.pid, *descendants(process.pid)]
    if process.poll() is None:
        for pid in family:
            send(pid, signal.SIGKILL)
        process.wait()


def parent_of(entry: Path) -> int | None:
    try:
        return int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
    except (FileNotFoundError, ProcessLookupError):
        return None


def title(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def listening(pids: Iterable[int]) -> set[str]:
    """The addresses, as the kernel writes them, on which these processes wait for TCP connections."""
    sockets = {entry.readlink().name for pid in pids for entry in Path(f"/proc/{pid}/fd").glob("*") if is_socket(entry)}
    addresses = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for row in (line.split() for line in Path(table).read_text().splitlines()[1:]):
            if row[3] == "0A" and f"socket:[{row[9]}]" in sockets:
                addresses.add(row[1].split(":")[0])
    return addresses


def is_socket(entry: Path) -> bool:
    try:
        return entry.readlink().name.startswith("socket:")
    except FileNotFoundError:
        return False


def send(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


def epochs(folder: Path) -> list[int]:
    """The epochs in ``metrics.jsonl``; none before the first is written."""
    metrics = folder / "metrics.jsonl"
    return [json.loads(line)["epoch"] for line in metrics.read_text().splitlines()] if metrics.exists() else []


def same_weights(folder: Path, other: Path) -> bool:
    ours, theirs = (load_file(each / "bundle/model.safetensors") for each in (folder, other))
    return ours.keys() == theirs.keys() and all(np.array_equal(ours[key], theirs[key]) for key in ours)

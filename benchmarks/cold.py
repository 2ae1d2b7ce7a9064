"""Seconds from a command's start to its first use, beside the plain script's: help, first step, first row, ready.

    python benchmarks/cold.py --model BUNDLE [--rounds 5] [--films 64]

``train`` is measured to the end of its first step of 8 films, ``segment`` to the first file of masks (covseg-ray writes
a block of 64 films at once, the script each film), ``serve`` to the first 200 of ``/readyz``. Each is ended then.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from rounds import Arm, FailedError, Figures, covseg, in_turn, last_line, python, settings, timed_run
from segment_peers import write_films
from services import command, running
from train_peers import JOB
from train_peers import write_films as write_training

PEERS = Path(__file__).parent / "peers"
PAUSE, LIMIT, BATCH = 0.02, 300, 8
USES = ("help", "train", "segment", "serve")


@contextmanager
def started(words: list[str]) -> Iterator[subprocess.Popen[str]]:
    """A program that is ended by SIGTERM with the block, and what it wrote to standard error with it."""
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.terminate()
        process.communicate()


def until(words: list[str], seen: Callable[[], bool]) -> float:
    """Seconds until ``seen``. Raises FailedError where the program ends without it."""
    begin = time.perf_counter()
    with started(words) as process:
        while not seen():
            if process.poll() is not None and not seen():
                assert process.stderr
                raise FailedError(last_line(process.stderr.read()))
            if time.perf_counter() - begin > LIMIT:
                raise FailedError(f"nothing after {LIMIT} s")
            time.sleep(PAUSE)
        return time.perf_counter() - begin


def seconds_of(words: list[str]) -> Figures:
    return {"seconds": timed_run(words)[1]}


def our_first_step(folder: Path) -> Figures:
    """The first epoch has one step; what its validation takes is not counted."""
    shutil.rmtree(folder / "runs", ignore_errors=True)
    records = folder / "runs/bench/metrics.jsonl"
    values = {
        "name": "bench",
        "out": folder / "runs",
        "data.dataset": folder / "dataset",
        "model.encoder_weights": "none",
        "train.epochs": 2,
        "train.batch_size": BATCH,
    }
    words = covseg("train", "-c", JOB, *settings(values))
    seconds = until(words, lambda: records.exists() and records.read_text().endswith("\n"))
    record = json.loads(records.read_text().splitlines()[0])
    return {"seconds": seconds - (record["seconds"] - record["train_seconds"])}


def plain_first_step(folder: Path) -> Figures:
    words = python(PEERS / "dataloader_train.py", folder / "films", "--batch-size", BATCH, "--steps", 100)
    begin = time.perf_counter()
    with started(words) as process:
        assert process.stdout
        assert process.stderr
        if not process.stdout.readline():
            raise FailedError(last_line(process.stderr.read()))
        return {"seconds": time.perf_counter() - begin}


def first_file(words: list[str], out: Path, pattern: str) -> Figures:
    shutil.rmtree(out, ignore_errors=True)
    return {"seconds": until([*words, str(out)], lambda: any(out.glob(pattern)))}


def ready(service: str, model: str, folder: Path) -> Figures:
    begin = time.perf_counter()
    try:
        with running(command(service, model, os.cpu_count() or 1, folder), {}):
            return {"seconds": time.perf_counter() - begin}
    except AssertionError as error:
        raise FailedError(str(error)) from error


def arms(folder: Path, given: argparse.Namespace) -> dict[str, Arm]:
    script, films, model = PEERS / "plain_segment.py", folder / "archive", ["--model", given.model]
    ours, plain = covseg("segment", *model, films), python(script, *model, films)
    return {
        "help, covseg-ray": partial(seconds_of, covseg("--help")),
        "help, plain script": partial(seconds_of, python(PEERS / "dataloader_train.py", "--help")),
        "train, covseg-ray": partial(our_first_step, folder),
        "train, plain script": partial(plain_first_step, folder),
        "segment, covseg-ray": partial(first_file, ours, folder / "table", "results/*.parquet"),
        "segment, plain script": partial(first_file, plain, folder / "masks", "*.png"),
        "serve, covseg-ray": partial(ready, "covseg-ray", given.model, folder),
        "serve, plain script": partial(ready, "plain", given.model, folder),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--films", type=int, default=64, help="films of the archive that is segmented")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_training(folder, BATCH + BATCH // 4)
        write_films(folder / "archive", None, given.films, 256)
        measured = in_turn(arms(folder, given), given.rounds)
    for use in USES:
        measured.ratio(f"{use}, covseg-ray", f"{use}, plain script", "seconds", None)
    sys.exit(bool(measured.broken))


if __name__ == "__main__":
    main()

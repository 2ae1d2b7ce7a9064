"""A run of a million inputs that is nearly done, gone on with: what its start costs in time, and the driver in memory.

All but the last few inputs are written as if an earlier command had done them, 64 a file as it would have; then
``covseg-ray segment`` is given.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from covseg_ray.engine.bulk.pipeline import BLOCK_FILMS
from covseg_ray.engine.bulk.run import Request, check_same_run
from covseg_ray.engine.bundle_io import load_bundle
from covseg_ray.radiograph.masks import encode_png
from covseg_ray.radiograph.phantom import make_phantom
from covseg_ray.storage.archives.read import list_members
from covseg_ray.storage.runs.recovery import RECORDS
from covseg_ray.storage.runs.result_table import RESULTS, SCHEMA
from covseg_ray.storage.runs.worklist import write_worklist

LEFT = 256


def write_source(folder: Path, inputs: int) -> Path:
    """A manifest of so many films; the last of them are there."""
    films = folder / "films"
    films.mkdir(parents=True)
    for index in range(LEFT):
        (films / f"z{inputs - LEFT + index:09d}.png").write_bytes(encode_png(make_phantom(0, index, 64).image))
    names = [f"films/a{index:09d}.png" for index in range(inputs - LEFT)]
    names += sorted(path.relative_to(folder).as_posix() for path in films.iterdir())
    pq.write_table(pa.table({"uri": names}), folder / "films.parquet")
    return folder / "films.parquet"


def write_done(out: Path, inputs: int, model_id: str) -> None:
    block = BLOCK_FILMS["cpu"]
    for folder in (RESULTS, RECORDS):
        (out / folder).mkdir(parents=True)
    for first in range(0, inputs - LEFT, block):
        items_B = np.arange(first, min(first + block, inputs - LEFT))
        rows = {name: pa.nulls(len(items_B), SCHEMA.field(name).type) for name in SCHEMA.names}
        rows["item"] = pa.array(items_B)
        for name, value in (("status", "rejected"), ("reason", "missing"), ("model_id", model_id)):
            rows[name] = pa.array([value] * len(items_B))
        for name in ("image_id", "source", "preprocess_version"):
            rows[name] = pa.array([""] * len(items_B))
        pq.write_table(pa.table(rows, schema=SCHEMA), out / RESULTS / f"done_{first:09d}-0.parquet")
        pq.write_table(pa.table({"item": rows["item"]}), out / RECORDS / f"done_{first:09d}.parquet")


def memory_mib(pid: int) -> float:
    """The most that a process has had in memory so far."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return max((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM")), default=0.0)


def measure(source: Path, out: Path, model: str) -> dict[str, float]:
    begin, most = time.monotonic(), 0.0
    before, first = len(list((out / RESULTS).iterdir())), 0.0
    words = ["segment", str(source), str(out), "--model", model, "--json"]
    command = subprocess.Popen([sys.executable, "-m", "covseg_ray", *words], stdout=subprocess.DEVNULL)
    while command.poll() is None:
        most = max(most, memory_mib(command.pid))
        if not first and len(list((out / RESULTS).iterdir())) > before:
            first = time.monotonic() - begin
        time.sleep(0.2)
    return {"first_block_seconds": first, "seconds": time.monotonic() - begin, "driver_mib": most}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="a new folder")
    parser.add_argument("--model", required=True)
    parser.add_argument("--inputs", type=int, default=1_000_000)
    given = parser.parse_args()
    source, out, bundle = write_source(given.folder, given.inputs), given.folder / "out", load_bundle(given.model)
    check_same_run(Request(str(source), str(out), given.model), bundle)
    begin = time.monotonic()
    write_worklist(str(out), list_members(str(source)), [].append)
    listing = {"inputs": given.inputs, "listing_seconds": time.monotonic() - begin}
    write_done(out, given.inputs, bundle.model_id)
    print(json.dumps(listing | measure(source, out, given.model)))


if __name__ == "__main__":
    main()

"""A film's cost as an archive grows: ``covseg-ray segment`` with a stand-in for the network, next to free.

    python benchmarks/growth.py [--sizes 1000,10000,100000] [--folder FOLDER]

The archives are tar files of 16 films of 32 x 32 pixels over and over, 2 KB a film (1,000,000 films: 2 GB). Start and
end of a run cost the same for any size, so a film's cost is the difference between two runs over that of their films.
Of a small archive they are most of the run, and no two starts take the same time: it is done three times, and the
median counts. ``driver_mib`` is the most memory that the command's own process has had.
"""

from __future__ import annotations

import argparse
import io
import json
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from functools import partial
from itertools import pairwise
from pathlib import Path

from resume_million import memory_mib
from rounds import Arm, FailedError, Figures, Measured, covseg, in_turn, last_line, tell

from covseg_ray.engine.bundle_io import save_bundle
from covseg_ray.radiograph.masks import encode_png
from covseg_ray.radiograph.phantom import make_phantom
from covseg_ray.segmentation.network.build import build_network
from covseg_ray.segmentation.network.bundle import Bundle, BundleSpec

SIDE, DIFFERENT = 32, 16
FLAT = 1.10
SMALL = 10_000  # films; archives up to here are done three times


def write_model(folder: Path) -> None:
    """Random weights: what it finds is of no interest."""
    spec = BundleSpec(architecture="linknet", encoder="tu-test_resnet", input_size=SIDE)
    save_bundle(str(folder), Bundle(spec, build_network(spec.architecture, spec.encoder).state_dict()))


def write_archive(path: Path, films: int) -> None:
    data = [encode_png(make_phantom(0, index, SIDE).image) for index in range(DIFFERENT)]
    with tarfile.open(path, "w") as archive:
        for index in range(films):
            member = tarfile.TarInfo(f"{index:09d}.png")
            member.size = len(data[index % DIFFERENT])
            archive.addfile(member, io.BytesIO(data[index % DIFFERENT]))


def segment(folder: Path, films: int) -> Figures:
    archive, out = folder / f"{films}.tar", folder / f"out-{films}"
    write_archive(archive, films)
    shutil.rmtree(out, ignore_errors=True)
    begin, most = time.perf_counter(), 0.0
    words = covseg("segment", archive, out, "--model", folder / "model", "--engine", "openvino", "--json")
    with (folder / "answer").open("w+") as answer, (folder / "word").open("w+") as word:
        command = subprocess.Popen(words, stdout=answer, stderr=word)
        while command.poll() is None:
            most = max(most, memory_mib(command.pid))
            time.sleep(0.2)
        seconds = time.perf_counter() - begin
        answer.seek(0)
        word.seek(0)
        if command.returncode:
            raise FailedError(f"exit {command.returncode}: {last_line(word.read())}")
        summary = json.load(answer)
    archive.unlink()
    if summary["ok"] != films:
        raise FailedError(f"{summary['ok']} of {films} films in the table")
    return {"films": films, "seconds": seconds, "films_per_second": summary["films_per_second"], "driver_mib": most}


def arms(folder: Path, sizes: list[int]) -> dict[str, Arm]:
    return {f"{films:,} films": partial(segment, folder, films) for films in sizes}


def growth(measured: Measured) -> None:
    """Milliseconds a film between each size and the next, and how much more the last ones cost than the first."""
    runs = [list(found.values()) for found in measured.figures.values()]
    costs = []
    for small, large in pairwise(runs):
        fewer, more = small[0]["films"], large[0]["films"]
        seconds = [statistics.median(run["seconds"] for run in each) for each in (small, large)]
        costs.append((seconds[1] - seconds[0]) / (more - fewer))
        title = f"milliseconds a film from {fewer:,} to {more:,} films"
        tell({"figure": title, "value": 1000 * costs[-1], "aim": None, "rounds": min(len(small), len(large))})
    if len(costs) > 1:
        title = "a film's cost in the largest archive over that in the smallest"
        tell({"figure": title, "value": costs[-1] / costs[0], "aim": FLAT, "at_most": True, "rounds": 1})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="1000,10000,100000")
    parser.add_argument("--folder", type=Path, help="where archives and results go for a while; a temporary one else")
    given = parser.parse_args()
    sizes = sorted(int(size) for size in given.sizes.split(","))
    with tempfile.TemporaryDirectory(dir=given.folder) as name:
        folder = Path(name)
        write_model(folder / "model")
        measured = in_turn(arms(folder, [films for films in sizes if films <= SMALL]), 3)
        in_turn(arms(folder, [films for films in sizes if films > SMALL]), 1, measured)
    growth(measured)
    sys.exit(bool(measured.broken))


if __name__ == "__main__":
    main()

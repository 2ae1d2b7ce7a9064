"""Films/s of ``covseg-ray segment`` over a folder of PNG films, beside what one would write instead, in turn.

    python benchmarks/segment_peers.py --model BUNDLE [--films FOLDER] [--count 256] [--s3 s3://BUCKET/PREFIX]
        [--engine auto] [--rounds 5]

Every rate is that of the work itself: the loading of the models and the start of worker processes are in it, the start
of Python, its imports and Ray's are not. ``whole_films_per_second`` is of the command from its start to its end. FOLDER
is searched for PNG films (folders of masks are passed over); without it the films are phantoms. With ``--s3`` the
films are put there first, and everybody reads them from there.
"""

from __future__ import annotations

import argparse
import io
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import fsspec
import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image
from rounds import Arm, CannotError, Figures, Measured, covseg, in_turn, python, run, tell, timed_run

from covseg_ray.radiograph.masks import encode_png
from covseg_ray.radiograph.phantom import make_phantom

PEERS = Path(__file__).parent / "peers"
MEASURE = "films_per_second"
OURS, POOL, DAFT, PLAIN = "covseg-ray segment", "multiprocessing", "Daft", "plain script"
AIMS = {POOL: 1.0, DAFT: 1.0, PLAIN: 5.0}
Masks = dict[str, NDArray[np.bool_]]


def write_films(folder: Path, source: Path | None, count: int, side: int) -> None:
    """So many films as ``00000.png`` and on: copies of those below ``source``, or phantoms."""
    folder.mkdir(parents=True)
    found = sorted(p for p in source.rglob("*.png") if "mask" not in p.parent.name) if source else []
    for index in range(count):
        film = folder / f"{index:05d}.png"
        if found:
            shutil.copyfile(found[index * len(found) // count], film)
        else:
            film.write_bytes(encode_png(make_phantom(0, index, side).image))


def sent(folder: Path, prefix: str | None) -> str:
    """Where the films are read from: the folder, or a place of its name below the prefix of a bucket."""
    if not prefix:
        return str(folder)
    files, path = fsspec.core.url_to_fs(f"{prefix}/{folder.name}")
    for film in folder.iterdir():
        files.put_file(str(film), f"{path}/{film.name}")
    return f"{prefix}/{folder.name}"


def ours(films: str, count: int, out: Path, given: argparse.Namespace) -> Figures:
    shutil.rmtree(out, ignore_errors=True)
    words = covseg("segment", films, out, "--model", given.model, "--engine", given.engine, "--json")
    text, seconds = timed_run(words)
    document = json.loads(text)
    assert document["ok"] == count, document
    return {MEASURE: document[MEASURE], f"whole_{MEASURE}": count / seconds}


def daft(packages: Path | None, films: str, count: int, out: Path, words: list[str]) -> Figures:
    if not packages and not find_spec("daft"):
        raise CannotError("Daft is not installed; make bench installs it")
    return peer("daft_segment.py", films, count, out, words, {"PYTHONPATH": str(packages)} if packages else {})


def peer(script: str, films: str, count: int, out: Path, words: list[str], environment: dict[str, str]) -> Figures:
    shutil.rmtree(out, ignore_errors=True)
    begin = time.perf_counter()
    document = json.loads(run(python(PEERS / script, films, out, *words), environment).splitlines()[-1])
    return {MEASURE: document[MEASURE], f"whole_{MEASURE}": count / (time.perf_counter() - begin)}


def masks_in_table(folder: Path, name_column: str) -> Masks:
    """The masks of every Parquet file below, by the films' file names."""
    rows = [row for path in folder.rglob("*.parquet") for row in pq.read_table(path).to_pylist()]
    return {Path(row[name_column]).name: pixels(row["mask"]) for row in rows}


def masks_in_folder(folder: Path) -> Masks:
    return {path.name: pixels(path.read_bytes()) for path in folder.glob("*.png")}


def pixels(png: bytes) -> NDArray[np.bool_]:
    return np.asarray(Image.open(io.BytesIO(png)).convert("L")) > 0


def different(ones: Masks, others: Masks) -> int:
    """How many films have not one and the same mask in both."""
    every = ones.keys() | others.keys()
    return sum(name not in ones or name not in others or not np.array_equal(ones[name], others[name]) for name in every)


def check_masks(folder: Path, measured: Measured) -> None:
    """The peers with the same engine must have given the same masks."""
    found = masks_in_table(folder / OURS / "results", "source")
    theirs: Iterator[tuple[str, Masks]] = iter(
        [(POOL, masks_in_folder(folder / POOL)), (DAFT, masks_in_table(folder / DAFT, "path"))]
    )
    for what, masks in theirs:
        if what in measured.figures and OURS in measured.figures:
            wrong = different(found, masks)
            title = f"films whose mask differs, {OURS} and {what}"
            tell({"figure": title, "value": wrong, "aim": 0, "at_most": True, "rounds": 1})
            measured.broken += [what] if wrong else []


def arms(folder: Path, given: argparse.Namespace) -> dict[str, Arm]:
    films, few = sent(folder / "films", given.s3), sent(folder / "few", given.s3)
    all_of_them, some = (films, given.count), (few, given.plain_count)
    same = ["--model", given.model, "--engine", given.engine]
    return {
        OURS: partial(ours, *all_of_them, folder / OURS, given),
        POOL: partial(peer, "multiprocessing_segment.py", *all_of_them, folder / POOL, same, {}),
        DAFT: partial(daft, given.daft, *all_of_them, folder / DAFT, same),
        PLAIN: partial(peer, "plain_segment.py", *some, folder / PLAIN, ["--model", given.network or given.model], {}),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--network", help="the plain script's bundle, where --model holds 8-bit integers")
    parser.add_argument("--films", type=Path, help="a folder of films; phantoms else")
    parser.add_argument("--count", type=int, default=256, help="films a round")
    parser.add_argument("--plain-count", type=int, default=48, help="films a round of the plain script")
    parser.add_argument("--side", type=int, default=256, help="pixels a side of the phantoms")
    parser.add_argument("--s3", help="put the films there, below s3://BUCKET/PREFIX, and read them from there")
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--daft", type=Path, help="where Daft's packages are, if not beside covseg-ray's own")
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_films(folder / "films", given.films, given.count, given.side)
        write_films(folder / "few", given.films, given.plain_count, given.side)
        measured = in_turn(arms(folder, given), given.rounds)
        check_masks(folder, measured)
    for under, aim in AIMS.items():
        measured.ratio(OURS, under, MEASURE, aim)
    for under in AIMS:
        measured.ratio(OURS, under, f"whole_{MEASURE}", None)
    sys.exit(bool(measured.broken))


if __name__ == "__main__":
    main()

"""Run every benchmark and write a page of results for each: ``benchmarks/results/THEME-HARDWARE-YEAR-MONTH.md``.

    python benchmarks/report.py [--into FOLDER] [--hardware NAME] [--model BUNDLE] [--int8 BUNDLE] [--films FOLDER]
        [--count 256] [--s3 s3://BUCKET/PREFIX] [--engine auto] [--daft FOLDER] [--rounds 5]
        [--sizes 1000,10000,100000] [--only predict,segment]

A page is written as soon as its benchmark has ended. Ends with 1 if a program broke, and names it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from report_page import Part, hardware, page, this_machine

HERE = Path(__file__).parent
ROOT = HERE.parent
Line = dict[str, Any]


@dataclass(frozen=True)
class Plan:
    """A benchmark: its script, what its table shows, and its words from those of this command."""

    script: str
    title: str
    text: str
    words: Callable[[argparse.Namespace], list[str]]


def model_words(given: argparse.Namespace) -> list[str]:
    return ["--model", given.model]


def optional(name: str, value: object) -> list[str]:
    return [f"--{name}", str(value)] if value else []


def bulk_words(given: argparse.Namespace) -> list[str]:
    return [
        *optional("films", given.films),
        *optional("s3", given.s3),
        *optional("daft", given.daft),
        *("--count", str(given.count), "--engine", given.engine, "--rounds", str(given.rounds)),
    ]


def fewer(given: argparse.Namespace, most: int) -> list[str]:
    return ["--rounds", str(min(most, given.rounds))]


PLANS = {
    "predict": Plan(
        "predict_peers.py",
        "Prediction on a CPU",
        "Films/s of one model, films in memory, all cores. The plain script is eager torch in fp32 and NCHW.",
        lambda given: [*model_words(given), *optional("int8", given.int8), "--rounds", str(given.rounds)],
    ),
    "segment": Plan(
        "segment_peers.py",
        "Bulk segmentation",
        "Films/s from PNG films, in a folder or a bucket, to masks. The loading of the models is in them, the start of "
        "Python and of Ray is not; `whole_films_per_second` is of the command from its start to its end. "
        "All but the plain script compute with the same engine.",
        lambda given: [*model_words(given), *bulk_words(given)],
    ),
    "segment-int8": Plan(
        "segment_peers.py",
        "Bulk segmentation in 8-bit integers",
        "The same with the 8-bit bundle; the plain script has the model that it was made from.",
        lambda given: ["--model", given.int8, "--network", given.model, *bulk_words(given)],
    ),
    "train": Plan(
        "train_peers.py",
        "Training on a CPU",
        "Images/s of training steps, the start left out: same films, network, batch of 32, loss and flips. `defaults` "
        "is a DataLoader script in fp32 and NCHW, `tuned` the same with channels_last, and bf16 autocast where the "
        "chip gains by it; several processes are DDP under torchrun.",
        lambda given: fewer(given, 3),
    ),
    "serve": Plan(
        "serve_peers.py",
        "Serving",
        "Requests/s and latency with so many clients that each wait for their answer; a film of 256 x 256 pixels. All "
        "compute with the same engine, a model for each core.",
        lambda given: [*model_words(given), "--rounds", str(given.rounds)],
    ),
    "cold": Plan(
        "cold.py",
        "Cold costs",
        "Seconds from the start of a command to its help, the end of the first training step, the first file of masks, "
        "the first 200 of `/readyz`.",
        lambda given: [*model_words(given), *fewer(given, 3)],
    ),
    "growth": Plan(
        "growth.py",
        "As work grows",
        "`segment` with a network that costs next to nothing, computed by OpenVINO. Start and end cost the "
        "same for any size, so a film's cost is the difference between two runs over that of their films; `driver_mib` "
        "is the most memory of the command's own process.",
        lambda given: ["--sizes", given.sizes],
    ),
}


def lines_of(words: list[str]) -> tuple[list[Line], int]:
    """The JSON lines of a benchmark, copied to standard error, and its exit code."""
    lines: list[Line] = []
    with subprocess.Popen([sys.executable, *words], cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        for text in process.stdout:
            print(text, end="", file=sys.stderr, flush=True)
            lines.append(json.loads(text))
    return lines, process.returncode


def measure(name: str, given: argparse.Namespace) -> Part:
    plan = PLANS[name]
    words = [f"benchmarks/{plan.script}", *plan.words(given)]
    print(f"== {' '.join(words)}", file=sys.stderr, flush=True)
    begin = datetime.now(timezone.utc)
    lines, code = lines_of(words)
    minutes = (datetime.now(timezone.utc) - begin).total_seconds() / 60
    return Part(plan.title, plan.text, words, lines, code, minutes)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--into", type=Path, default=HERE / "results")
    parser.add_argument("--hardware", default=hardware(), help="the machine's name in the names of the pages")
    parser.add_argument("--model", default="covid-qu-ex")
    parser.add_argument("--int8", default="", help="the same model in 8-bit integers")
    parser.add_argument("--films", default="", help="a folder of PNG films to segment; phantoms else")
    parser.add_argument("--count", type=int, default=256, help="films of bulk segmentation")
    parser.add_argument("--s3", default="", help="put the films below s3://BUCKET/PREFIX, and read them from there")
    parser.add_argument("--engine", default="auto", help="of segmentation")
    parser.add_argument("--daft", default="", help="where Daft's packages are, if not beside covseg-ray's own")
    parser.add_argument("--rounds", type=int, default=5, help="at most 3 of training and cold costs")
    parser.add_argument("--sizes", default="1000,10000,100000", help="films of the growing archives")
    parser.add_argument("--only", default=",".join(PLANS))
    given = parser.parse_args()
    if unknown := set(given.only.split(",")) - PLANS.keys():
        parser.error(f"--only {','.join(sorted(unknown))}: unknown; it takes {', '.join(PLANS)}")
    return given


def main() -> None:
    given, broken = parse(), list[str]()
    for name in given.only.split(","):
        if name == "segment-int8" and not given.int8:
            continue
        machine = this_machine(given.daft)
        part = measure(name, given)
        path = given.into / f"{name}-{given.hardware}-{machine.when:%Y-%m}.md"
        path.write_text(page(machine, part))
        print(f"{os.path.relpath(path)} is written", file=sys.stderr)
        broken += [f"{part.title}: {line}" for line in part.failures()]
    print(*broken, sep="\n", file=sys.stderr)
    sys.exit(bool(broken))


if __name__ == "__main__":
    main()

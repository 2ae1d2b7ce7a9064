"""The page of one benchmark: its machine, its ratios beside their aims, and its medians."""

from __future__ import annotations

import os
import platform
import shlex
import statistics
import sys
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

PACKAGES = ("covseg-ray", "torch", "ray", "openvino", "onnxruntime", "daft", "litserve")
METHOD = (
    "Programs of a table ran in turn, every other round in reverse order, on the same films and cores. A ratio is the "
    "median of its rounds' ratios, with the lowest and the highest; the other figures are medians."
)
Line = dict[str, Any]


@dataclass(frozen=True)
class Machine:
    """Where it was measured. ``load`` is the mean number of running processes in the minute before the first one."""

    cpu: str
    cores: int
    memory_gib: float
    load: float
    versions: dict[str, str]
    when: datetime


@dataclass(frozen=True)
class Part:
    """A benchmark that has ended: its words, its JSON lines, its exit code."""

    title: str
    text: str
    words: list[str]
    lines: list[Line]
    code: int
    minutes: float

    def failures(self) -> list[str]:
        found = [f"{line['what']}: {line['failed']}" for line in self.lines if "failed" in line]
        return found or ([f"ended with {self.code}"] if self.code else [])


def this_machine(daft: str = "") -> Machine:
    """``daft`` is the folder of Daft's packages, if they are not beside the others."""
    return Machine(
        cpu=_from_proc("cpuinfo", "model name") or platform.processor() or platform.machine(),
        cores=os.cpu_count() or 1,
        memory_gib=int(_from_proc("meminfo", "MemTotal").split()[0] or 0) / 2**20,
        load=os.getloadavg()[0],
        versions={"Python": platform.python_version()} | _versions(daft),
        when=datetime.now(timezone.utc),
    )


def _from_proc(file: str, key: str) -> str:
    path = Path("/proc", file)
    lines = path.read_text().splitlines() if path.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(key)), "")


def _versions(daft: str) -> dict[str, str]:
    places = [*sys.path, *([daft] if daft else [])]
    found = {name: next(iter(distributions(name=name, path=places)), None) for name in PACKAGES}
    return {name: package.version for name, package in found.items() if package}


def hardware() -> str:
    """A short name of this machine's processor by its instructions: amx, zen4, avx512, avx2, or its architecture."""
    flags, maker = _from_proc("cpuinfo", "flags").split(), _from_proc("cpuinfo", "vendor_id")
    if "amx_tile" in flags:
        return "amx"
    if "avx512f" in flags:
        return "zen4" if maker == "AuthenticAMD" else "avx512"
    return "avx2" if "avx2" in flags else platform.machine()


def page(machine: Machine, part: Part) -> str:
    left_out = [f"- {line['what']} did not run: {line['cannot']}" for line in part.lines if "cannot" in line]
    broken = [f"- **broke**: {each}" for each in part.failures()]
    parts = [
        f"# {part.title}",
        f"{part.text} {METHOD}",
        f"`python {shlex.join(_without_places(part.words))}`, {part.minutes:.0f} min; {_where(machine)}",
        _aims(part.lines),
        _medians(part.lines),
        "\n".join(left_out + broken),
    ]
    return "\n\n".join(each for each in parts if each) + "\n"


def _where(machine: Machine) -> str:
    versions = ", ".join(f"{name} {number}" for name, number in machine.versions.items())
    return (
        f"{machine.when:%d %B %Y, %H:%M} UTC; {machine.cpu}, {machine.cores} cores, {machine.memory_gib:.0f} GiB; "
        f"{versions}. Load of the machine in the minute before: {machine.load:.1f}."
    )


def _without_places(words: list[str]) -> list[str]:
    """``--films FILMS`` for a folder of this machine."""
    before = ["", *words]
    return [
        option[2:].upper() if Path(word).is_absolute() else word for option, word in zip(before, words, strict=False)
    ]


def _aims(lines: list[Line]) -> str:
    rows = [_aim_row(line) for line in lines if "figure" in line]
    return _table(["figure", "value", "lowest to highest", "aim", "rounds"], rows) if rows else ""


def _aim_row(line: Line) -> list[str]:
    spread = f"{number(line['lowest'])} to {number(line['highest'])}" if "lowest" in line else ""
    return [line["figure"], number(line["value"]), spread, _aim(line), str(line["rounds"])]


def _aim(line: Line) -> str:
    if line["aim"] is None:
        return ""
    at_most = line.get("at_most", False)
    met = line["value"] <= line["aim"] if at_most else line["value"] >= line["aim"]
    return f"{'at most' if at_most else 'at least'} {number(line['aim'])}: {'reached' if met else 'not reached'}"


def _medians(lines: list[Line]) -> str:
    """A row a program; a column a figure that it gave."""
    measured: dict[str, list[Line]] = {}
    for line in lines:
        if "round" in line:
            measured.setdefault(line["what"], []).append(line)
    columns = list(dict.fromkeys(key for rows in measured.values() for key in rows[0] if key not in ("what", "round")))
    rows = [
        [what, *(number(statistics.median(line[key] for line in found)) for key in columns), str(len(found))]
        for what, found in measured.items()
    ]
    return _table(["program", *columns, "rounds"], rows) if rows else ""


def _table(columns: list[str], rows: list[list[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def number(value: float) -> str:
    """Three digits of it, or all of a whole number."""
    if float(value).is_integer() or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.2f}" if abs(value) >= 1 else f"{value:.3f}"

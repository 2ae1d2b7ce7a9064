"""The work list of bulk segmentation: each input of its source once, numbered, in Parquet files in ``OUT/listing``.

It is written once and kept: a resumed run does the same work even if the source has changed.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import groupby
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from covseg_ray.storage.archives.members import Member
from covseg_ray.storage.filesystem import delete, exists, join, locate, read_bytes, translated, write_bytes

FOLDER = "listing"
COMPLETE = "listing.json"
SCHEMA = pa.schema(
    [
        pa.field("item", pa.int64(), nullable=False),
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("container", pa.string(), nullable=False),
        pa.field("kind", pa.string(), nullable=False),
        pa.field("name", pa.string(), nullable=False),
        pa.field("offset", pa.int64(), nullable=False),
        pa.field("size", pa.int64(), nullable=False),
        pa.field("problem", pa.string()),
    ]
)
# A file is one task's work. A zip's directory is read anew by each, and a tar.gz unpacked from its beginning.
_INPUTS = 500
_OF_ONE_ARCHIVE = {"zip": 5_000, "tar.gz": 10_000_000}
_MEMBER_FIELDS = [field.name for field in fields(Member)]


@dataclass(frozen=True, slots=True)
class Worklist:
    """The number of ``inputs``, by `Member.kind` in ``kinds``, and the sum of their known sizes in ``bytes``.

    ``starts`` are the first items of the files.
    """

    inputs: int
    bytes: int
    kinds: Mapping[str, int]
    starts: Sequence[int]


def read_worklist(out: str) -> Worklist | None:
    """The work list of the run at ``out``, None where it is not complete."""
    if not exists(join(out, COMPLETE)):
        return None
    return Worklist(**json.loads(read_bytes(join(out, COMPLETE))))


def write_worklist(out: str, members: Iterable[Member], on_progress: Callable[[int], None]) -> Worklist:
    """Number ``members`` from 0 and write them; ``on_progress`` receives the number listed so far."""
    delete(join(out, FOLDER))  # left by an interrupted listing
    inputs, size, kinds, starts = 0, 0, Counter[str](), list[int]()
    for run in split_tasks(members):
        rows = [{"item": inputs + place, **asdict(member)} for place, member in enumerate(run)]
        buffer = pa.BufferOutputStream()
        pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), buffer, compression="zstd")
        write_bytes(part_uri(out, len(starts)), buffer.getvalue().to_pybytes())
        starts.append(inputs)
        inputs += len(run)
        size += sum(max(member.size, 0) for member in run)
        kinds.update(member.kind for member in run)
        on_progress(inputs)
    worklist = Worklist(inputs, size, dict(kinds), starts)
    write_bytes(join(out, COMPLETE), json.dumps(asdict(worklist)).encode())
    return worklist


def part_uri(out: str, number: int) -> str:
    return join(out, FOLDER, f"part-{number:07d}.parquet")


def parse_members(rows: Iterable[Mapping[str, Any]]) -> Iterator[Member]:
    """The members in rows of a work list."""
    return (Member(*(row[name] for name in _MEMBER_FIELDS)) for row in rows)


def split_tasks(members: Iterable[Member]) -> Iterator[list[Member]]:
    """Split members into the parts that one task reads: 500, more where an archive is better read in one pass."""
    run: list[Member] = []
    for member in members:
        archive_inputs = _OF_ONE_ARCHIVE.get(member.kind, 0) if run and run[-1].container == member.container else 0
        if run and len(run) >= _INPUTS + archive_inputs:
            yield run
            run = []
        run.append(member)
    if run:
        yield run


def read_items(out: str, worklist: Worklist, items: Iterable[int]) -> dict[int, Member]:
    """The members with these numbers."""
    found: dict[int, Member] = {}
    for number, wanted in groupby(sorted(set(items)), key=lambda item: bisect_right(worklist.starts, item) - 1):
        table = read_file(out, number, list(wanted))
        found.update(zip(table["item"].to_pylist(), parse_members(table.to_pylist()), strict=True))
    return found


def read_file(out: str, number: int, items: list[int] | None = None) -> pa.Table:
    """One file of the work list, or its rows of ``items``."""
    location = locate(part_uri(out, number))
    with translated(location.uri), location.fs.open(location.path, "rb") as file:
        return pq.read_table(file, filters=None if items is None else [("item", "in", items)])

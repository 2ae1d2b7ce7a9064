"""Archives made to do harm: bombs, names, and bytes changed at random."""

from __future__ import annotations

import gzip
import os
import random
import re
import struct
import subprocess
import sys
import tarfile
import zipfile
import zlib
from collections import Counter
from pathlib import Path

import pytest
from archive_files import info, png, tar, tar_gz, zipped
from hypothesis import given, settings
from hypothesis import strategies as st

from covseg_ray.radiograph.film import Rejected
from covseg_ray.storage.archives.read import list_members, read_members

FILMS = [(f"{number}.png", png(number)) for number in range(4)]
BOMBS = {
    "zeros.tar.gz": lambda: gz_of(info("zeros.png", 2**29).tobuf(), 2**29, bytes(1024)),
    "name.tar.gz": lambda: gz_of(info("x", 2**29, type=tarfile.GNUTYPE_LONGNAME).tobuf(), 2**29),
    "pax.tar.gz": lambda: gz_of(info("x", 2**29, type=tarfile.XHDTYPE).tobuf(), 2**29),
    "trailer.tar.gz": lambda: gz_of(tar(FILMS), 2**29),
    "deflate.zip": lambda: small_claim(zipped([("zeros.png", bytes(2**28))])),
    "bzip2.zip": lambda: small_claim(zipped([("zeros.png", bytes(2**28))], zipfile.ZIP_BZIP2)),
    "nested.zip": lambda: zipped([("inner.zip", zipped([("zeros.png", bytes(2**28))]))]),
    "film.zip": lambda: zipped([("film.png", png_of_zeros(30_000))]),
    "claim.zip": lambda: claim(zipped(FILMS), 250 * 2**20),
}


def gz_of(head: bytes, zeros: int, tail: bytes = b"") -> bytes:
    """Gzip of ``head``, so many zeros and ``tail``, put together from parts so that it takes no time."""
    part = gzip.compress(bytes(2**24), 1)
    return gzip.compress(head) + part * (zeros // 2**24) + gzip.compress(tail)


def png_of_zeros(side: int) -> bytes:
    """A black film of ``side`` x ``side`` pixels, 8 bits each, small as a file."""
    packer = zlib.compressobj(1)
    packed = b"".join([*(packer.compress(bytes(1 + side)) for _ in range(side)), packer.flush()])
    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", packed), (b"IEND", b"")]
    parts = [
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def claim(data: bytes, size: int) -> bytes:
    """The last member's size, as the directory says it, made ``size``."""
    place = data.rindex(b"PK\x01\x02") + 24
    return data[:place] + size.to_bytes(4, "little") + data[place + 4 :]


def small_claim(data: bytes) -> bytes:
    return claim(data, 2**20)


REASONS = {
    "zeros.tar.gz": {"too-large"},
    "name.tar.gz": {"broken-archive"},
    "pax.tar.gz": {"broken-archive"},
    "trailer.tar.gz": set(),
    "deflate.zip": {"not-an-image"},
    "bzip2.zip": {"unsupported"},
    "nested.zip": {"not-an-image"},
    "film.zip": {"too-large"},
    "claim.zip": {"bomb"},
}

CHILD = """
import resource, sys
from covseg_ray.radiograph.decode import decode
from covseg_ray.radiograph.film import Rejected
from covseg_ray.storage.archives.read import list_members, read_members
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for member, data in read_members(list_members(sys.argv[1])):
    film = data if isinstance(data, Rejected) else decode(data)
    print(member.name, film.reason if isinstance(film, Rejected) else len(data))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_costs_no_memory(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(BOMBS[name]())
    child = subprocess.run([sys.executable, "-c", CHILD, tmp_path / name], capture_output=True, text=True, check=True)
    *lines, grown = child.stdout.splitlines()
    assert int(grown) < 100 * 2**10  # KiB
    assert lines
    reasons = {line.split()[-1] for line in lines} - {str(len(film)) for _, film in FILMS}
    assert reasons == REASONS[name]


NAME = st.text(min_size=1, max_size=30) | st.text("./a#%\\", min_size=1, max_size=9)


@settings(max_examples=60)
@given(st.lists(NAME, max_size=25), st.sampled_from(["tar", "tar.gz", "zip"]))
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_ids_of_any_archive_are_unique_safe_and_stable(
    tmp_path_factory: pytest.TempPathFactory, names: list[str], kind: str
) -> None:
    folder = tmp_path_factory.mktemp("any")
    entries = [(name.encode("utf-8", "replace").decode(), b"1") for name in names]
    made = {"tar": tar, "tar.gz": tar_gz, "zip": zipped}[kind](entries)
    (folder / f"x.{kind}").write_bytes(made)
    first, again = list(list_members(str(folder))), list(list_members(str(folder)))
    assert first == again
    ids = [member.image_id for member in first]
    assert len(set(ids)) == len(ids)
    for each in ids:
        assert not {"", ".", ".."} & set(each.split("/"))
        assert not re.search(r"[\x00-\x1f\x7f-\x9f\\]", each)
        assert max(len(part.encode()) for part in each.split("/")) <= 200
        assert len(each.encode()) <= 1000
        assert (Path("/root") / each).resolve().is_relative_to(Path("/root").resolve())


def mutated(data: bytes, rng: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.randrange(1, 6)):
        place = rng.randrange(len(changed))
        match rng.randrange(5):
            case 0:
                changed[place] ^= 1 << rng.randrange(8)
            case 1:
                changed[place] = rng.choice((0, 1, 127, 128, 255))
            case 2:
                changed[place : place + rng.randrange(1, 40)] = rng.randbytes(rng.randrange(1, 40))
            case 3:
                del changed[max(8, place) :]
            case _:
                changed[place:place] = changed[: rng.randrange(1, 700)]
    return bytes(changed)


def headers_alone(entries: list[tuple[str, bytes]], form: int) -> bytes:
    """A tar of empty members, so that what is changed is mostly headers."""
    return tar([(name, b"") for name, _ in entries], form)[: 512 * 8]


def test_mutated_archives_are_listed_and_read_without_an_exception(tmp_path: Path) -> None:
    rng = random.Random(7)
    seeds = [
        ("x.tar", tar(FILMS, tarfile.GNU_FORMAT)),
        ("x.tar", tar([("é" * 90, FILMS[0][1]), *FILMS], tarfile.PAX_FORMAT)),
        ("x.tar", headers_alone([("é" * 90, b""), *FILMS], tarfile.PAX_FORMAT)),
        ("x.tar", headers_alone([("n" * 200, b""), *FILMS], tarfile.GNU_FORMAT)),
        ("x.tgz", tar_gz(FILMS)),
        ("x.tgz", gzip.compress(tar(FILMS), 0)),
        ("x.zip", zipped(FILMS)),
        ("x.zip", zipped([(name, b"") for name, _ in FILMS], zipfile.ZIP_STORED)),
    ]
    outcomes: Counter[str] = Counter()
    for case in range(int(os.environ.get("FUZZ_CASES", "400"))):
        name, data = seeds[case % len(seeds)]
        (tmp_path / name).write_bytes(mutated(data, rng))
        members = list(list_members(str(tmp_path / name)))
        assert len({member.image_id for member in members}) == len(members)
        for member, film in read_members(members):
            if isinstance(film, Rejected):
                assert "\n" not in film.detail
                outcomes[film.reason] += 1
            else:
                assert len(film) == member.size
                outcomes["film"] += 1
    assert min(outcomes[each] for each in ("film", "broken-archive", "truncated", "corrupt")) > 0

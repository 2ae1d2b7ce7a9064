"""Small films, and tar and zip archives of them in memory, well made and badly."""

from __future__ import annotations

import gzip
import io
import tarfile
import zipfile
from collections.abc import Iterable

import numpy as np
from PIL import Image

Entry = tuple[str, bytes] | tarfile.TarInfo


def png(seed: int, size: int = 16) -> bytes:
    buffer = io.BytesIO()
    pixels_HW = np.random.default_rng(seed).integers(0, 256, (size, size), np.uint8)
    Image.fromarray(pixels_HW).save(buffer, "PNG")
    return buffer.getvalue()


def info(name: str, size: int = 0, **fields: object) -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.size = size
    for field, value in fields.items():
        setattr(made, field, value)
    return made


def tar(entries: Iterable[Entry], form: int = tarfile.PAX_FORMAT) -> bytes:
    """An archive of files, or of headers alone where an entry is one."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as archive:
        for entry in entries:
            if isinstance(entry, tarfile.TarInfo):
                archive.addfile(entry)
            else:
                archive.addfile(info(entry[0], len(entry[1])), io.BytesIO(entry[1]))
    return buffer.getvalue()


def tar_gz(entries: Iterable[Entry]) -> bytes:
    return gzip.compress(tar(entries), 1)


def zipped(entries: Iterable[tuple[str, bytes]], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, data in entries:
            archive.writestr(zipfile.ZipInfo(name), data, compression)
    return buffer.getvalue()

"""A film's file, in a folder or a bucket, as the model's square, and the square's mask as a file of the film's size, by
fsspec and Pillow."""

from __future__ import annotations

import argparse
import io
import os
from pathlib import Path
from typing import IO

import fsspec
import numpy as np
from numpy.typing import NDArray
from PIL import Image

Size = tuple[int, int]  # width, height


def list_films(folder: str) -> list[str]:
    """The PNG films of a folder, or of a prefix of a bucket, by path or URI."""
    files, path = fsspec.core.url_to_fs(folder)
    return [files.unstrip_protocol(name) for name in sorted(files.glob(f"{path}/*.png"))]


def name_of(film: str) -> str:
    return film.rpartition("/")[2]


def read_film(film: str) -> IO[bytes]:
    with fsspec.open(film, "rb") as file:
        return io.BytesIO(file.read())


def read_square(file: IO[bytes], side: int) -> tuple[Size, NDArray[np.uint8]]:
    """The film's own size, and its pixels at the model's."""
    film = Image.open(file).convert("L")
    return film.size, np.asarray(film.resize((side, side), Image.Resampling.BILINEAR))


def write_mask(mask_SS: NDArray[np.bool_], size: Size, file: Path | IO[bytes]) -> None:
    """A 1-bit PNG of the film's own size."""
    Image.fromarray(mask_SS).resize(size, Image.Resampling.NEAREST).save(file, "PNG")


def folder_words(about: str | None) -> argparse.ArgumentParser:
    """The words of a script that segments a folder of films with a model."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("films", help="a folder of PNG films, or s3://BUCKET/PREFIX")
    parser.add_argument("out", type=Path)
    parser.add_argument("--model", required=True)
    return parser


def pool_words(about: str | None) -> argparse.ArgumentParser:
    """The same, of one that does it with processes of covseg-ray's engines."""
    parser = folder_words(about)
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    return parser

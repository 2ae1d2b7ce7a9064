"""Mutated files never raise, never pass a limit, and come with a known reason. FUZZ_CASES=100000 runs longer."""

from __future__ import annotations

import io
import os
import random

import numpy as np
import pytest
from PIL import Image

from covseg_ray.radiograph.decode import decode
from covseg_ray.radiograph.film import Limits, Radiograph

REASONS = {"empty", "not-an-image", "too-large", "truncated", "corrupt", "unsupported"}
LIMITS = Limits(max_bytes=20_000, max_pixels=10_000)


def seeds() -> list[bytes]:
    rng = np.random.default_rng(1)
    grey = Image.fromarray(rng.integers(0, 256, (40, 50), dtype=np.uint8))
    deep = Image.fromarray(rng.integers(0, 65536, (40, 50), dtype=np.uint16))
    exif = Image.Exif()
    exif[0x0112] = 6
    recipes: list[tuple[Image.Image, str, dict[str, object]]] = [
        (grey, "PNG", {"exif": exif}),
        (deep, "PNG", {}),
        (grey.convert("RGBA"), "PNG", {}),
        (grey.quantize(16), "PNG", {"transparency": 3}),
        (grey, "JPEG", {"exif": exif}),
        (grey.convert("RGB"), "JPEG", {"progressive": True}),
        (grey.convert("CMYK"), "JPEG", {}),
        (grey, "TIFF", {}),
        (deep, "TIFF", {"compression": "tiff_lzw"}),
        (grey.convert("RGB"), "TIFF", {"compression": "jpeg"}),
        (grey.convert("1"), "TIFF", {"compression": "group4"}),
    ]
    files = []
    for image, fmt, options in recipes:
        buffer = io.BytesIO()
        image.save(buffer, fmt, **options)
        files.append(buffer.getvalue())
    return files


def mutated(data: bytes, rng: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        place = rng.randrange(len(changed) if rng.random() < 0.6 else min(64, len(changed)))
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
                changed[place:place] = changed[: rng.randrange(1, 200)]
    return bytes(changed)


@pytest.mark.filterwarnings("ignore")
def test_mutated_files_become_a_film_or_a_reason() -> None:
    rng = random.Random(20)
    files = seeds()
    outcomes: dict[str, int] = {}
    for case in range(int(os.environ.get("FUZZ_CASES", "300"))):
        film = decode(mutated(files[case % len(files)], rng), LIMITS)
        if isinstance(film, Radiograph):
            assert film.pixels.ndim == 2
            assert 0 < film.pixels.size <= LIMITS.max_pixels
            assert film.pixels.dtype in (np.uint8, np.uint16)
        else:
            assert film.reason in REASONS
            assert len(film.detail) < 300
        outcome = "film" if isinstance(film, Radiograph) else film.reason
        outcomes[outcome] = outcomes.get(outcome, 0) + 1
    assert outcomes["film"] > 0
    assert outcomes["corrupt"] > 0
    assert outcomes["truncated"] > 0


def test_the_unchanged_files_decode() -> None:
    for data in seeds():
        assert isinstance(decode(data, LIMITS), Radiograph)

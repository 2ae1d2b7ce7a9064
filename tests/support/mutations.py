"""Files of films to mutate, and how: for tests that decode what is broken at random."""

from __future__ import annotations

import io
import random
from pathlib import Path

import numpy as np
from dicom_films import as_jpeg, as_lossless_jpeg, compressed, encoded, film
from PIL import Image
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

from covseg_ray.radiograph.film import Limits

IMAGE_REASONS = {"empty", "not-an-image", "too-large", "truncated", "corrupt", "unsupported"}
LIMITS = Limits(max_bytes=20_000, max_pixels=10_000)
DICOM_REASONS = IMAGE_REASONS | {"not-a-radiograph", "multi-frame", "colour", "no-pixel-data"}
HEADER = 144  # where the attributes begin


def image_files() -> list[bytes]:
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


def uncompressed_dicom_files() -> list[bytes]:
    rng = np.random.default_rng(2)
    grey_HW = rng.integers(0, 256, (40, 48), dtype=np.uint8)
    deep_HW = rng.integers(0, 4096, (40, 48), dtype=np.uint16)
    films = [
        film(grey_HW, PixelSpacing=[0.1, 0.1]),
        film(grey_HW, ImplicitVRLittleEndian, WindowCenter=[100, 120], WindowWidth=[90, 80]),
        film(deep_HW, ExplicitVRBigEndian, BitsStored=12, PhotometricInterpretation="MONOCHROME1"),
        film(deep_HW, DeflatedExplicitVRLittleEndian, BitsStored=12, RescaleSlope=2, RescaleIntercept=-5),
        compressed(
            film(deep_HW, BitsStored=12, WindowCenter=900, WindowWidth=90, VOILUTFunction="SIGMOID"), RLELossless
        ),
    ]
    return [encoded(each) for each in films]


def compressed_dicom_files(folder: Path) -> list[bytes]:
    grey_HW = np.add.outer(np.arange(40), np.arange(64)).astype(np.uint8)
    deep_HW = (grey_HW.astype(np.uint16) * 37) % 4096
    films = [as_jpeg(grey_HW), *(compressed(film(deep_HW), syntax) for syntax in (JPEGLSLossless, JPEG2000Lossless))]
    return [*(encoded(each) for each in films), as_lossless_jpeg(deep_HW, folder)]


def mutated_dicom(files: list[bytes], case: int, rng: random.Random) -> bytes:
    """Of every two one is changed anywhere, the other among its attributes or the head of its pixels."""
    data = files[case % len(files)]
    if case // len(files) % 2:
        return mutated(data, rng)
    start = rng.choice((HEADER, max(HEADER, data.find(b"\xe0\x7f\x10\x00"))))
    return data[:start] + mutated(data[start:], rng)

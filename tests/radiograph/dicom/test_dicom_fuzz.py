"""Mutated films through the decoding child: a film or a known reason, never an exception, never a patient's data."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from dicom_films import SECRET, as_jpeg, as_lossless_jpeg, compressed, encoded, film
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)
from test_decode_fuzz import LIMITS, mutated
from test_decode_fuzz import REASONS as ORDINARY_REASONS
from test_decode_fuzz import seeds as ordinary_files

from covseg_ray.radiograph.decode import decode
from covseg_ray.radiograph.decoder_process import DecodingChild
from covseg_ray.radiograph.film import Radiograph, Rejected

MUTANTS = 300
DRILL_MUTANTS = 10_000
SECONDS = 10.0
REASONS = ORDINARY_REASONS | {"not-a-radiograph", "multi-frame", "colour", "no-pixel-data"}
HEADER = 144  # where the attributes begin


def uncompressed_files() -> list[bytes]:
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


def compressed_files(folder: Path) -> list[bytes]:
    grey_HW = np.add.outer(np.arange(40), np.arange(64)).astype(np.uint8)
    deep_HW = (grey_HW.astype(np.uint16) * 37) % 4096
    films = [as_jpeg(grey_HW), *(compressed(film(deep_HW), syntax) for syntax in (JPEGLSLossless, JPEG2000Lossless))]
    return [*(encoded(each) for each in films), as_lossless_jpeg(deep_HW, folder)]


def mutant(files: list[bytes], case: int, rng: random.Random) -> bytes:
    """Of every two one is changed anywhere, the other among its attributes or the head of its pixels."""
    data = files[case % len(files)]
    if case // len(files) % 2:
        return mutated(data, rng)
    start = rng.choice((HEADER, max(HEADER, data.find(b"\xe0\x7f\x10\x00"))))
    return data[:start] + mutated(data[start:], rng)


def check(shown: Radiograph | Rejected, reasons: set[str]) -> str:
    if isinstance(shown, Radiograph):
        assert shown.pixels.ndim == 2
        assert 0 < shown.pixels.size <= LIMITS.max_pixels
        assert shown.pixels.dtype in (np.uint8, np.uint16)
        return "film"
    assert shown.reason in reasons
    assert len(shown.detail) < 300
    assert SECRET not in shown.detail
    assert "exit code" not in shown.detail, "an exception ended the child"
    return shown.reason


@pytest.mark.filterwarnings("error")
def test_mutated_films_never_raise() -> None:
    """In this process, where an exception would show: only films that no C codec reads."""
    rng = random.Random(30)
    files = uncompressed_files()
    outcomes = Counter(check(decode(mutant(files, case, rng), LIMITS), REASONS) for case in range(MUTANTS))
    assert outcomes.keys() >= {"film", "corrupt", "truncated", "not-a-radiograph"}


def through_the_child(files: list[bytes], mutants: int) -> Counter[str]:
    rng = random.Random(31)
    reasons = REASONS | {"decoder-crashed", "decoder-hung"}
    with DecodingChild(LIMITS, SECONDS) as child:
        return Counter(check(child.decode(mutant(files, case, rng)), reasons) for case in range(mutants))


def test_mutated_films_leave_the_parent_whole(tmp_path: Path) -> None:
    outcomes = through_the_child([*uncompressed_files(), *compressed_files(tmp_path)], MUTANTS)
    assert outcomes.keys() >= {"film", "corrupt", "truncated"}
    assert outcomes.total() == MUTANTS


def test_the_unchanged_films_decode(tmp_path: Path) -> None:
    with DecodingChild(LIMITS) as child:
        for data in [*uncompressed_files(), *compressed_files(tmp_path)]:
            assert isinstance(child.decode(data), Radiograph)


@pytest.mark.drill
def test_ten_thousand_mutated_films_of_each_kind(tmp_path: Path) -> None:
    for files in ([*uncompressed_files(), *compressed_files(tmp_path)], ordinary_files()):
        outcomes = through_the_child(files, DRILL_MUTANTS)
        print(dict(outcomes))
        assert outcomes.total() == DRILL_MUTANTS
        assert outcomes["film"] > 0

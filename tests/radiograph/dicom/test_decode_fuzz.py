"""Mutated films through the decoding child: a film or a known reason, never an exception, never a patient's data."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from dicom_films import SECRET
from mutations import (
    DICOM_REASONS,
    LIMITS,
    compressed_dicom_files,
    image_files,
    mutated_dicom,
    uncompressed_dicom_files,
)

from covseg_ray.radiograph.decode import decode
from covseg_ray.radiograph.decoder_process import DecodingChild
from covseg_ray.radiograph.film import Radiograph, Rejected

MUTANTS = 300
DRILL_MUTANTS = 10_000
SECONDS = 10.0


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
    files = uncompressed_dicom_files()
    outcomes = Counter(check(decode(mutated_dicom(files, case, rng), LIMITS), DICOM_REASONS) for case in range(MUTANTS))
    assert outcomes.keys() >= {"film", "corrupt", "truncated", "not-a-radiograph"}


def through_the_child(files: list[bytes], mutants: int) -> Counter[str]:
    rng = random.Random(31)
    reasons = DICOM_REASONS | {"decoder-crashed", "decoder-hung"}
    with DecodingChild(LIMITS, SECONDS) as child:
        return Counter(check(child.decode(mutated_dicom(files, case, rng)), reasons) for case in range(mutants))


def test_mutated_films_leave_the_parent_whole(tmp_path: Path) -> None:
    outcomes = through_the_child([*uncompressed_dicom_files(), *compressed_dicom_files(tmp_path)], MUTANTS)
    assert outcomes.keys() >= {"film", "corrupt", "truncated"}
    assert outcomes.total() == MUTANTS


def test_the_unchanged_films_decode(tmp_path: Path) -> None:
    with DecodingChild(LIMITS) as child:
        for data in [*uncompressed_dicom_files(), *compressed_dicom_files(tmp_path)]:
            assert isinstance(child.decode(data), Radiograph)


@pytest.mark.drill
def test_ten_thousand_mutated_films_of_each_kind(tmp_path: Path) -> None:
    for files in ([*uncompressed_dicom_files(), *compressed_dicom_files(tmp_path)], image_files()):
        outcomes = through_the_child(files, DRILL_MUTANTS)
        print(dict(outcomes))
        assert outcomes.total() == DRILL_MUTANTS
        assert outcomes["film"] > 0

"""Mutated files never raise, never pass a limit, and come with a known reason. FUZZ_CASES=100000 runs longer."""

from __future__ import annotations

import os
import random

import numpy as np
import pytest
from mutations import IMAGE_REASONS, LIMITS, image_files, mutated

from covseg_ray.radiograph.decode import decode
from covseg_ray.radiograph.film import Radiograph


@pytest.mark.filterwarnings("ignore")
def test_mutated_files_become_a_film_or_a_reason() -> None:
    rng = random.Random(20)
    files = image_files()
    outcomes: dict[str, int] = {}
    for case in range(int(os.environ.get("FUZZ_CASES", "300"))):
        film = decode(mutated(files[case % len(files)], rng), LIMITS)
        if isinstance(film, Radiograph):
            assert film.pixels.ndim == 2
            assert 0 < film.pixels.size <= LIMITS.max_pixels
            assert film.pixels.dtype in (np.uint8, np.uint16)
        else:
            assert film.reason in IMAGE_REASONS
            assert len(film.detail) < 300
        outcome = "film" if isinstance(film, Radiograph) else film.reason
        outcomes[outcome] = outcomes.get(outcome, 0) + 1
    assert outcomes["film"] > 0
    assert outcomes["corrupt"] > 0
    assert outcomes["truncated"] > 0


def test_the_unchanged_files_decode() -> None:
    for data in image_files():
        assert isinstance(decode(data, LIMITS), Radiograph)

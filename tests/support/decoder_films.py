"""What tests of the decoding process share: a film that takes it a while, and how they see that a process has ended."""

from __future__ import annotations

import io
import time
from pathlib import Path

import numpy as np
from PIL import Image

GREY_HW = np.random.default_rng(3).integers(0, 256, (1024, 1024), dtype=np.uint8)


def as_image(pixels_HW: np.ndarray, fmt: str) -> bytes:
    with io.BytesIO() as file:
        Image.fromarray(pixels_HW).save(file, fmt)
        return file.getvalue()


FILM = as_image(GREY_HW, "TIFF")


def ended(pid: int, seconds: float) -> bool:
    """Whether the process is gone, or dead and not yet buried, within that time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return True
        if state == "Z":
            return True
        time.sleep(0.02)
    return False

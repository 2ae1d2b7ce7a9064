"""One archive with an input of every kind, and what has to become of each."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from archive_files import tar, tar_gz, zipped
from dicom_films import encoded, film
from numpy.typing import NDArray
from PIL import Image

from covseg_ray.radiograph.phantom import make_phantom

Film = NDArray[np.uint8] | NDArray[np.uint16]


def phantom(index: int, height: int, width: int) -> NDArray[np.uint8]:
    return np.ascontiguousarray(make_phantom(9, index, max(height, width)).image[:height, :width])


def as_image(pixels_HW: NDArray[np.generic], form: str = "PNG") -> bytes:
    with io.BytesIO() as file:
        Image.fromarray(pixels_HW).save(file, form)
        return file.getvalue()


def archive_of_all_kinds(folder: Path) -> dict[str, Film | str]:
    """Write it below ``folder``; gives by image id the pixels that a film shows, or the reason why it is none."""
    films = [phantom(index, 64 + 9 * index, 200 - 11 * index) for index in range(8)]
    deep_HW = (films[6].astype(np.uint16) << 7) + 40
    files = {
        "films/a.png": as_image(films[0]),
        "films/b.tif": as_image(films[1], "TIFF"),
        "films/deep.png": as_image(deep_HW),
        "films/not.png": b"<html>no film</html>",
        "films/cut.png": as_image(films[2])[:300],
        "films/empty.png": b"",
        "more.tar": tar([("x/c.png", as_image(films[3])), ("x/notes.txt", b"hello")]),
        "more.tar.gz": tar_gz([("d.png", as_image(films[4]))]),
        "more.zip": zipped([("e.png", as_image(films[5])), ("../out.png", as_image(films[0]))]),
        "dicom/monochrome2.dcm": encoded(film(films[7])),
        "dicom/monochrome1.dcm": encoded(film(255 - films[7], PhotometricInterpretation="MONOCHROME1")),
        "dicom/ct.dcm": encoded(film(films[7], Modality="CT")),
    }
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return {
        "films/a.png": films[0],
        "films/b.tif": films[1],
        "films/deep.png": deep_HW,
        "films/not.png": "not-an-image",
        "films/cut.png": "truncated",
        "films/empty.png": "empty",
        "more.tar/x/c.png": films[3],
        "more.tar/x/notes.txt": "not-an-image",
        "more.tar.gz/d.png": films[4],
        "more.zip/e.png": films[5],
        "more.zip/%2E%2E/out.png": films[0],
        "dicom/monochrome2.dcm": films[7],
        "dicom/monochrome1.dcm": films[7],
        "dicom/ct.dcm": "not-a-radiograph",
    }

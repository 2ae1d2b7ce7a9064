"""Films changed as films come changed, films spoilt, and pictures that never were any: what the guard is tried on."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.Image import Transpose

from covseg_ray.radiograph.decode import decode
from covseg_ray.radiograph.film import Radiograph
from covseg_ray.radiograph.geometry import standardise

Square = NDArray[np.uint8]
SIDE = 256
FILTER = Image.Resampling.BILINEAR
PARTS = {
    "upper left": (0, 0),
    "upper right": (128, 0),
    "lower left": (0, 128),
    "lower right": (128, 128),
    "middle": (64, 64),
}


def harmless(film_SS: Square) -> dict[str, Square]:
    """The film as another machine, another hand or another program would have left it."""
    film = Image.fromarray(film_SS)
    changed = {"mirrored": film_SS[:, ::-1].copy()}
    changed |= {f"turned by {degrees} degrees": array(film.rotate(degrees, FILTER)) for degrees in (-10, -5, 5, 10)}
    changed |= {f"gamma {gamma}": gamma_of(film_SS, gamma) for gamma in (0.7, 1.4)}
    changed["bars of 10 % left and right"] = within(film, 0.1, 0)
    changed["bars of 10 % above and below"] = within(film, 0, 0.1)
    changed["cut by 5 % on every side"] = within(film, -0.05, -0.05)
    with io.BytesIO() as file:
        film.save(file, "JPEG", quality=50)
        changed["JPEG of quality 50"] = array(Image.open(file))
    return changed


def spoilt(film_SS: Square) -> dict[str, Square]:
    """The film as no model may take it for one."""
    film = Image.fromarray(film_SS)
    changed = {"inverted": 255 - film_SS, "upside down": film_SS[::-1].copy()}
    for degrees, turn in ((90, Transpose.ROTATE_90), (180, Transpose.ROTATE_180), (270, Transpose.ROTATE_270)):
        changed[f"turned by {degrees} degrees"] = array(film.transpose(turn))
    for name, (left, top) in PARTS.items():
        changed[f"its {name} quarter"] = array(
            film.crop((left, top, left + 128, top + 128)).resize((SIDE, SIDE), FILTER)
        )
    changed["its left half"] = array(film.crop((0, 0, 128, SIDE)).resize((SIDE, SIDE), FILTER))
    changed["its upper half"] = array(film.crop((0, 0, SIDE, 128)).resize((SIDE, SIDE), FILTER))
    return changed


def drawn() -> dict[str, list[Square]]:
    """Pictures that a few lines of arithmetic make."""
    rng, ramp = np.random.default_rng(0), np.arange(SIDE)
    across_SS = np.broadcast_to(ramp.astype(np.uint8), (SIDE, SIDE))
    far_SS = np.hypot(*(np.mgrid[:SIDE, :SIDE] - 127.5))
    blob_SS = (255 * (1 - far_SS / far_SS.max())).astype(np.uint8)
    sizes = [1, 2, 4, 8, 16, 32, 64, 128]
    return {
        "constant": [np.full((SIDE, SIDE), grey, np.uint8) for grey in (0, 1, 128, 255)],
        "gradients": [across_SS, 255 - across_SS, across_SS.T, 255 - across_SS.T, blob_SS, 255 - blob_SS],
        "checkerboards": [((ramp[:, None] // n + ramp // n) % 2 * 255).astype(np.uint8) for n in sizes],
        "noise": [noise(rng, grains) for grains in (4, 8, 16, 32, SIDE) for _ in range(40)],
    }


def pictures_in(folder: Path) -> Iterator[tuple[str, Square]]:
    """Every file below that can be decoded, DICOM of any kind among them, as the model would get it."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            film = decode(path.read_bytes())
            if isinstance(film, Radiograph):
                yield path.name, standardise(film.pixels)[0]


def slices() -> Iterator[tuple[str, Square]]:
    """pydicom's single-frame grey test images that are no radiographs, as if somebody had exported them to PNG."""
    import pydicom
    from pydicom.data import get_testdata_files

    for path in sorted(get_testdata_files()):
        try:
            found = pydicom.dcmread(path)
            kind = found.get("Modality", "unknown")
            values_HW = found.pixel_array.astype(np.float64)
        except (pydicom.errors.InvalidDicomError, AttributeError, OSError, RuntimeError, ValueError):
            continue  # no picture in it, or one that only a decoder of its own could read
        if values_HW.ndim == 2 and kind not in ("CR", "DX"):
            scaled_HW = (values_HW - values_HW.min()) * (65535 / max(np.ptp(values_HW), 1))
            yield f"{kind} {Path(path).name}", standardise(scaled_HW.round().astype(np.uint16))[0]


def another(rng: np.random.Generator, film_SS: Square) -> Square:
    """The film with a harmless change at random: mirrored or not, up to 10 degrees, 10 % and half a stop of gamma."""
    film = Image.fromarray(film_SS if rng.random() < 0.5 else film_SS[:, ::-1].copy())
    turned = film.rotate(rng.uniform(-10, 10), FILTER)
    left, top, right, bottom = SIDE * rng.uniform(-0.1, 0.1, 4)
    moved = turned.crop((round(left), round(top), SIDE + round(right), SIDE + round(bottom)))
    return gamma_of(array(moved.resize((SIDE, SIDE), FILTER)), 2 ** rng.uniform(-0.5, 0.5))


def no_film(rng: np.random.Generator, film_SS: Square, kind: int) -> Square:
    """A picture that is none, by ``kind``, 0 to 7: the film turned, inverted or cut, noise, or the film's spectrum."""
    film = Image.fromarray(film_SS)
    turns = (Transpose.ROTATE_90, Transpose.ROTATE_270, Transpose.ROTATE_180, Transpose.FLIP_TOP_BOTTOM)
    if kind < 4:
        return array(film.transpose(turns[kind]))
    if kind == 4:
        return 255 - film_SS
    if kind == 5:
        side = int(rng.integers(60, 150))
        left, top = (int(corner) for corner in rng.integers(0, SIDE - side, 2))
        return array(film.crop((left, top, left + side, top + side)).resize((SIDE, SIDE), FILTER))
    if kind == 6:
        return noise(rng, int(rng.choice([3, 4, 6, 8, 12, 16, 24, 32, 64, SIDE])))
    waves_SS = np.abs(np.fft.fft2(film_SS)) * np.exp(2j * np.pi * rng.random((SIDE, SIDE)))
    waves_SS[0, 0] = 0
    mixed_SS = np.fft.ifft2(waves_SS).real
    return (255 * (mixed_SS - mixed_SS.min()) / max(np.ptp(mixed_SS), 1e-9)).astype(np.uint8)


def noise(rng: np.random.Generator, grains: int) -> Square:
    return array(Image.fromarray(rng.integers(0, 256, (grains, grains), np.uint8)).resize((SIDE, SIDE), FILTER))


def within(film: Image.Image, sides: float, ends: float) -> Square:
    """Black bars of so much of the width and of the height, or so much cut away where that is negative."""
    across, down = round(SIDE * sides), round(SIDE * ends)
    return array(film.crop((-across, -down, SIDE + across, SIDE + down)).resize((SIDE, SIDE), FILTER))


def gamma_of(film_SS: Square, gamma: float) -> Square:
    return np.rint(255 * (film_SS / 255.0) ** gamma).astype(np.uint8)


def array(image: Image.Image) -> Square:
    return np.asarray(image)

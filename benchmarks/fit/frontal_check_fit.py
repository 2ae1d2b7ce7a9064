"""Fit the frontal check to COVID-QU-Ex's training films, write its constants and report what it passes and flags.

A quarter of Train is held out from the fit and says what is usual. Val, its changed films and the pictures that are no
films at all have no part in either.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from frontal_check_pictures import Square, another, drawn, harmless, no_film, pictures_in, slices, spoilt
from numpy.typing import NDArray

from covseg_ray.radiograph import frontal_check
from covseg_ray.radiograph.decode import decode
from covseg_ray.radiograph.film import Radiograph
from covseg_ray.radiograph.frontal_check import LEVEL, FrontalCheck, Gaussian, edge_histogram
from covseg_ray.radiograph.geometry import standardise
from covseg_ray.radiograph.phantom import make_phantom

LABELS = ("COVID-19", "Non-COVID", "Normal")
HELD_OUT = 0.25
FILM_AXES, OTHER_AXES = 60, 40
VARIANTS = 2
KINDS = 8
FILE = Path(frontal_check.__file__).with_name(frontal_check.FITTED)


def films_of(folder: Path, split: str, label: str) -> list[Square]:
    paths = sorted((folder / split / label / "images").glob("*.png"))
    found = [decode(path.read_bytes()) for path in paths]
    return [standardise(film.pixels)[0] for film in found if isinstance(film, Radiograph)]


def gaussian(features_ND: NDArray[np.float32], axes: int) -> Gaussian:
    """Mean and principal components (Tipping and Bishop 1999: the rest of the variance is spread evenly), as stored."""
    exact_ND = features_ND.astype(np.float64)
    mean_D = exact_ND.mean(0)
    variances_D, axes_DD = np.linalg.eigh(np.cov(exact_ND, rowvar=False, ddof=0))
    variances_D, axes_DD = variances_D[::-1], axes_DD[:, ::-1]
    strongest_K = np.abs(axes_DD[:, :axes]).argmax(0)
    axes_DK = axes_DD[:, :axes] * np.sign(axes_DD[strongest_K, np.arange(axes)])
    stored_DK = axes_DK.astype(np.float16).astype(np.float32)
    rest = np.float32(variances_D[axes:].mean())
    return Gaussian(mean_D.astype(np.float32), stored_DK, variances_D[:axes].astype(np.float32), float(rest))


def fit(films: list[Square]) -> FrontalCheck:
    rng = np.random.default_rng(0)
    order_N = rng.permutation(len(films))
    held = round(HELD_OUT * len(films))
    fitted_to = [films[index] for index in order_N[held:]]
    usual = [*fitted_to, *(another(rng, film_SS) for _ in range(VARIANTS) for film_SS in fitted_to)]
    others = [no_film(rng, film_SS, index % KINDS) for index, film_SS in enumerate(fitted_to * VARIANTS)]
    both = (
        gaussian(np.stack([edge_histogram(each_SS) for each_SS in usual]), FILM_AXES),
        gaussian(np.stack([edge_histogram(each_SS) for each_SS in others]), OTHER_AXES),
    )
    new = FrontalCheck(*both, np.empty(0, np.float32))
    unusual = sorted(new.nonconformity(films[index]) for index in order_N[:held])
    return FrontalCheck(*both, np.array(unusual, np.float32))


def write(fitted: FrontalCheck, file: Path) -> None:
    parts = {"held_out_N": fitted.held_out_N}
    for name, each in (("films", fitted.films), ("others", fitted.others)):
        parts |= {f"{name}_mean_D": each.mean_D, f"{name}_axes_DK": each.axes_DK.astype(np.float16)}
        parts |= {f"{name}_variances_K": each.variances_K, f"{name}_rest": np.float32(each.rest)}
    np.savez(file, allow_pickle=False, **parts)


def tell(what: str, pictures: Iterable[Square], fitted: FrontalCheck) -> None:
    likeness_N = np.array([fitted.p_value(picture_SS) for picture_SS in pictures])
    flagged, count = int((likeness_N < LEVEL).sum()), len(likeness_N)
    print(f"| {what} | {count} | {flagged} | {100 * flagged / count:.1f} % | {np.median(likeness_N):.3f} |", flush=True)


def measure(val: dict[str, list[Square]], others: list[Path], fitted: FrontalCheck) -> None:
    print("| pictures | how many | flagged | share | median |\n| --- | --- | --- | --- | --- |")
    every = [film_SS for films in val.values() for film_SS in films]
    tell("Val", every, fitted)
    for label, films in val.items():
        tell(f"Val, {label}", films, fitted)
    for size in (64, 128, 512):
        tell(f"Val in a square of {size}", (standardise(film_SS, size)[0] for film_SS in every), fitted)
    for change in (harmless, spoilt):
        changed = [change(film_SS) for film_SS in every]
        for name in changed[0]:
            tell(f"Val, {name}", (each[name] for each in changed), fitted)
    tell("phantoms", (make_phantom(1, index).image for index in range(200)), fitted)
    for name, pictures in {**drawn(), "CT, MR, US and other slices of pydicom": [each for _, each in slices()]}.items():
        tell(name, pictures, fitted)
    for folder in others:
        found = list(pictures_in(folder))
        tell(f"pictures in {folder.name}", (picture_SS for _, picture_SS in found), fitted)
        print("\n".join(f"    {fitted.p_value(picture_SS):.3f} {name}" for name, picture_SS in found))


def cost(film_SS: Square, rounds: int = 2000) -> float:
    """Milliseconds of a core a film."""
    square_SS, placement = standardise(film_SS)
    frontal_check.frontal(square_SS, placement)
    begin = time.thread_time()
    for _ in range(rounds):
        frontal_check.frontal(square_SS, placement)
    return 1000 * (time.thread_time() - begin) / rounds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("films", type=Path, help="COVID-QU-Ex's folder `Infection Segmentation Data`")
    parser.add_argument("others", type=Path, nargs="*", help="folders of other pictures to try it on, DICOM too")
    parser.add_argument("--keep", action="store_true", help="measure the constants that are there, and fit none")
    given = parser.parse_args()
    if not given.keep:
        write(fit([film_SS for label in LABELS for film_SS in films_of(given.films, "Train", label)]), FILE)
    measure({label: films_of(given.films, "Val", label) for label in LABELS}, given.others, frontal_check.load_fitted())
    spent = cost(films_of(given.films, "Val", LABELS[0])[0])
    print(f"\n{FILE.stat().st_size:,} bytes; {spent:.3f} ms of a core a film")


if __name__ == "__main__":
    main()

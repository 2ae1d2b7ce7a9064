"""Published layouts of films and masks, and the samples they hold.

- ``covid-qu-ex``: ``{Train,Val,Test}/{COVID-19,Non-COVID,Normal}/{images,infection masks,lung masks}/NAME.png``, as
  COVID-QU-Ex publishes it, with or without its folder ``Infection Segmentation Data`` around.
- ``pairs``: ``images/`` and ``masks/`` (and ``lungs/``) with files of the same name (a mask may end in ``_mask``), with
  or without ``train/``, ``val/``, ``test/`` around them.
- ``csv``: a manifest with columns ``image, mask`` and any of ``lung, split, label, patient_id, image_id``.

Where no split is given, a hash of the patient (or, where unknown, of the image) puts 80 % in train and 20 % in val.
"""

from __future__ import annotations

import csv
import hashlib
import io
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from covseg_ray.errors import DatasetError, StorageError, UsageError
from covseg_ray.storage.filesystem import join, list_files, locate, read_bytes

LAYOUTS = ("covid-qu-ex", "pairs", "csv")
UNLABELLED = "unlabelled"
INFECTION_FOLDER = "Infection Segmentation Data/"
VAL_SHARE = 0.2

_COVID_QU_EX = re.compile(
    r"(?:.*/)?(?P<split>Train|Val|Test)/(?P<label>COVID-19|Non-COVID|Normal)/"
    r"(?P<kind>images|infection masks|lung masks)/(?P<name>[^/]+)\.[^./]+"
)
_PAIRS = re.compile(r"(?:(?P<split>train|val|test)/)?(?P<kind>images|masks|lungs)/(?P<name>.+)\.[^./]+", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Sample:
    """One film of a layout. ``image``, ``mask`` and ``lung`` are relative to the layout's root, or URIs."""

    image_id: str
    split: str
    label: str
    patient_id: str | None
    image: str
    mask: str | None
    lung: str | None


@dataclass(frozen=True, slots=True)
class Layout:
    name: str
    root: str
    samples: tuple[Sample, ...]


def read_layout(source: str, name: str | None = None) -> Layout:
    """The samples at ``source`` (a folder or a ``.csv``, local or ``s3://``); the layout is recognised unless named.

    Raises UsageError for an unknown name, StorageError where nothing is there, DatasetError where films and masks do
    not make a layout: no masks at all, or an ``image_id`` twice. A film that alone lacks its mask stays, without.
    """
    if name is not None and name not in LAYOUTS:
        raise UsageError(f"unknown layout {name!r}; use one of {', '.join(LAYOUTS)}")
    if name == "csv" or (name is None and source.lower().endswith(".csv")):
        root, samples = locate(source).uri.rpartition("/")[0], _manifest(source)
        name = "csv"
    else:
        name, root, samples = _folder(source, name)
    if not any(sample.mask for sample in samples):
        raise DatasetError(
            f"{source}: {len(samples)} images but no masks ({name} layout); put a mask beside each image"
        )
    twice = [image_id for image_id, count in Counter(sample.image_id for sample in samples).items() if count > 1]
    if twice:
        first = ", ".join(twice[:3])
        raise DatasetError(f"{source}: {len(twice)} image ids stand for several films ({first}); make each unique")
    return Layout(name, root, tuple(samples))


def _folder(source: str, name: str | None) -> tuple[str, str, list[Sample]]:
    paths = [path for path in list_files(source) if not PurePosixPath(path).name.startswith(".")]
    if not paths:
        raise StorageError(f"{source}: no files there; check the name")
    infection = [path.removeprefix(INFECTION_FOLDER) for path in paths if path.startswith(INFECTION_FOLDER)]
    if infection and name != "pairs":
        # Paths count from that folder, so that the dataset is the same whichever of the two was given.
        source, paths = join(source, INFECTION_FOLDER.rstrip("/")), infection
    patterns = {"covid-qu-ex": _COVID_QU_EX, "pairs": _PAIRS}
    for candidate in patterns if name is None else [name]:
        samples = _samples(patterns[candidate], paths)
        if samples:
            return candidate, source, samples
    raise DatasetError(
        f"{source}: {len(paths)} files but no images in the {name or 'covid-qu-ex or pairs'} layout; "
        "expected Train/COVID-19/images/ and so on, or images/ and masks/, or give a .csv"
    )


def _samples(pattern: re.Pattern[str], paths: Sequence[str]) -> list[Sample]:
    kinds = _by_kind(pattern, paths)
    masks = kinds["masks"].items()
    suffixed = {(split, label, name.removesuffix("_mask")): path for (split, label, name), path in masks}
    samples = []
    for key, image in kinds["images"].items():
        split, label, name = key
        image_id = "/".join(filter(None, (split.lower(), label, name)))
        samples.append(
            Sample(
                image_id=image_id,
                split=split.lower() or hashed_split(image_id),
                label=label or UNLABELLED,
                patient_id=None,
                image=image,
                mask=kinds["infection masks"].get(key) or kinds["masks"].get(key) or suffixed.get(key),
                lung=kinds["lung masks"].get(key) or kinds["lungs"].get(key),
            )
        )
    return samples


def _by_kind(pattern: re.Pattern[str], paths: Sequence[str]) -> dict[str, dict[tuple[str, str, str], str]]:
    """Paths by the kind of folder they lie in, then by (split, label, name)."""
    kinds: dict[str, dict[tuple[str, str, str], str]] = defaultdict(dict)
    for path in paths:
        match = pattern.fullmatch(path)
        if match:
            groups = match.groupdict()
            key = (groups["split"] or "", groups.get("label") or "", groups["name"])
            kind = kinds[groups["kind"].lower()]
            if key in kind:
                raise DatasetError(f"{path}: its name stands for {kind[key]} too; image ids must be unique, rename one")
            kind[key] = path
    return kinds


def _manifest(source: str) -> list[Sample]:
    try:
        rows = list(csv.DictReader(io.StringIO(read_bytes(source).decode("utf-8-sig"), newline=""), strict=True))
    except (UnicodeDecodeError, csv.Error) as error:
        raise DatasetError(f"{source}: not a CSV file in UTF-8 ({error})") from error
    missing = [column for column in ("image", "mask") if rows and column not in rows[0]]
    if missing or not rows:
        raise DatasetError(f"{source}: no {' and no '.join(missing) or 'rows'}; columns image and mask are needed")
    return [_manifest_sample(f"{source}, row {number}", row) for number, row in enumerate(rows, start=2)]


def _manifest_sample(where: str, row: dict[str, str | None]) -> Sample:
    cell = {name: (row.get(name) or "").strip() for name in ("image", "mask", "lung", "split", "label")}
    patient_id = (row.get("patient_id") or "").strip() or None
    if not cell["image"]:
        raise DatasetError(f"{where}: the column image is empty; name a file there")
    image_id = (row.get("image_id") or "").strip() or re.sub(r"\.[^./]+$", "", cell["image"])
    split = cell["split"].lower() or hashed_split(patient_id or image_id)
    if not re.fullmatch(r"[a-z0-9_-]+", split):
        raise DatasetError(f"{where}: {split!r} is no name for a split; use train, val or test")
    label = cell["label"] or UNLABELLED
    return Sample(image_id, split, label, patient_id, cell["image"], cell["mask"] or None, cell["lung"] or None)


def hashed_split(identity: str) -> str:
    """``train`` or ``val``, always the same for one patient or image."""
    share = int.from_bytes(hashlib.sha256(f"split:{identity}".encode()).digest()[:8], "big") / 2**64
    return "val" if share < VAL_SHARE else "train"

"""Audit films before training: copies, patients shared by splits, masks that contradict their label, and traces of
how the files were made that tell the labels apart.

Of two copies, and of the films of one patient in two splits, the film of the evaluation split is kept (test before val
and splits of other names, these before train) and the other reported. With a ``side``, the film of that split is
reported and the other kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from covseg_ray.errors import UsageError
from covseg_ray.radiograph.file_traces import file_traces
from covseg_ray.storage.datasets.info import DATASET_FILE, Reject
from covseg_ray.storage.datasets.near_duplicates import Fingerprint, find_duplicates, fingerprint
from covseg_ray.storage.datasets.pack import Progress, map_in_threads, read_film
from covseg_ray.storage.datasets.read import list_units, read_info, read_unit
from covseg_ray.storage.datasets.shortcuts import Shortcut, find_shortcuts
from covseg_ray.storage.datasets.sources import Source, SourceFilm, name_sources, read_sources
from covseg_ray.storage.filesystem import exists, join

INFECTED = frozenset({"COVID-19"})
CLEAN = frozenset({"Non-COVID", "Normal"})
SOURCE_SIZE = 256
Kind = Literal["exact-duplicate", "near-duplicate", "shared-patient", "empty-mask", "unexpected-mask"]
_KEEP = {"test": 2, "train": 0}
_KEEP_OTHERS = 1


@dataclass(frozen=True, slots=True)
class Finding:
    """A film that should be excluded, and why."""

    kind: Kind
    image_id: str
    detail: str


@dataclass(frozen=True, slots=True)
class Audit:
    """The number of ``films`` audited, and of those whose patient is not known; ``rejected`` could not be read.
    ``shortcuts`` are warnings about the films as a whole: they exclude none."""

    films: int
    without_patient: int
    findings: tuple[Finding, ...]
    rejected: tuple[Reject, ...]
    shortcuts: tuple[Shortcut, ...]

    def exclusions(self) -> str:
        """The list for ``data pack --exclude``: every reported film once, its reasons as a comment."""
        reasons: dict[str, list[str]] = {}
        for finding in self.findings:
            reasons.setdefault(finding.image_id, []).append(f"{finding.kind}: {finding.detail}")
        return "".join(f"{image_id}  # {'; '.join(reasons[image_id])}\n" for image_id in sorted(reasons))


@dataclass(frozen=True, slots=True)
class _Film:
    image_id: str
    split: str
    label: str
    infected: bool
    patient_id: str | None
    fingerprint: Fingerprint
    traces: dict[str, float]


def audit(
    sources: str | Sequence[str],
    *,
    names: Sequence[str] = (),
    side: str | None = None,
    progress: Progress | None = None,
) -> Audit:
    """Audit every film of one or several datasets, or of folders or manifests that are not packed yet.

    Exact copies are reported everywhere, near copies and shared patients across splits; patients of several sources
    are compared as their ``patient_id`` is written. ``side`` is the split whose film is reported where the other film
    of a pair lies in another split. Image ids are those of a dataset packed of the same sources and ``names``. Raises
    as reading does, and UsageError for a ``side`` that is not a split or names that cannot be used.
    """
    films: list[_Film] = []
    rejected: list[Reject] = []
    named = name_sources([sources] if isinstance(sources, str) else sources, names)
    for source in named:
        packed = exists(join(source.uri, DATASET_FILE))
        found, left_out = _packed(source, progress) if packed else _unpacked(source, progress)
        films += found
        rejected += left_out
    films.sort(key=lambda each: each.image_id)
    splits = sorted({each.split for each in films})
    if side is not None and side not in splits:
        where = ", ".join(source.uri for source in named)
        raise UsageError(f"--side {side}: {where} has no such split; it has {', '.join(splits)}")
    contradictions = (finding for each in films for finding in _contradictions(each))
    findings = [*_duplicates(films, side), *_shared_patients(films, side), *contradictions]
    without_patient = sum(each.patient_id is None for each in films)
    shortcuts = find_shortcuts([each.label for each in films], [each.traces for each in films])
    return Audit(len(films), without_patient, tuple(findings), tuple(rejected), tuple(shortcuts))


def _packed(source: Source, progress: Progress | None) -> tuple[list[_Film], list[Reject]]:
    info = read_info(source.uri)
    found: list[_Film] = []
    for split in info.splits:
        for unit in list_units(source.uri, split):
            films = read_unit(source.uri, unit)
            infected = films.masks_NHW.max(axis=(1, 2)) > 0
            for index, image_id in enumerate(films.image_ids):
                found.append(
                    _Film(
                        source.qualify(image_id),
                        split,
                        films.labels[index],
                        bool(infected[index]),
                        films.patient_ids[index],
                        fingerprint(films.images_NHW[index]),
                        file_traces(films.images_NHW[index]),
                    )
                )
            if progress:
                progress(len(found), info.rows)
    return found, [replace(each, image=source.qualify(each.image)) for each in info.rejected]


def _unpacked(source: Source, progress: Progress | None) -> tuple[list[_Film], list[Reject]]:
    _, films = read_sources([source])
    read = list(map_in_threads(_read, films, progress))
    return [each for each in read if isinstance(each, _Film)], [each for each in read if isinstance(each, Reject)]


def _read(film: SourceFilm) -> _Film | Reject:
    row = read_film(film, SOURCE_SIZE, "stretch")
    if isinstance(row, Reject):
        return row
    infected, mark, traces = bool(np.any(row.mask_HW)), fingerprint(row.image_HW), file_traces(row.image_HW)
    return _Film(row.image_id, row.split, row.label, infected, row.patient_id, mark, traces)


def _duplicates(films: list[_Film], side: str | None) -> Iterator[Finding]:
    for pair in find_duplicates([each.fingerprint for each in films]):
        first, second = films[pair.first], films[pair.second]
        if pair.exact or first.split != second.split:
            kept, excluded = (first, second) if _rank(first, side) >= _rank(second, side) else (second, first)
            kind: Kind = "exact-duplicate" if pair.exact else "near-duplicate"
            correlation = "" if pair.exact else f", correlation {pair.correlation:.3f}"
            yield Finding(kind, excluded.image_id, f"of {kept.image_id}{correlation}")


def _shared_patients(films: list[_Film], side: str | None) -> Iterator[Finding]:
    """Every film of a patient except those of the split that is kept: the highest rank, then the first by name."""
    by_patient: dict[str, list[_Film]] = {}
    for each in films:
        if each.patient_id is not None:
            by_patient.setdefault(each.patient_id, []).append(each)
    for of_one in by_patient.values():
        kept = min(of_one, key=lambda each: (-_rank(each, side), each.split))
        for each in of_one:
            if each.split != kept.split:
                yield Finding("shared-patient", each.image_id, f"the same patient as {kept.image_id}")


def _rank(each: _Film, side: str | None) -> int:
    """The film of the higher rank is kept."""
    return -1 if each.split == side else _KEEP.get(each.split, _KEEP_OTHERS)


def _contradictions(each: _Film) -> Iterator[Finding]:
    if each.label in INFECTED and not each.infected:
        yield Finding("empty-mask", each.image_id, f"labelled {each.label} but no infection is drawn")
    if each.label in CLEAN and each.infected:
        yield Finding("unexpected-mask", each.image_id, f"labelled {each.label} but infection is drawn")

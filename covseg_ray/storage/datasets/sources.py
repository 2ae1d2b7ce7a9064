"""Films of several sources as one set: a short name for each source keeps their image ids and paths distinct.

The films of a single source keep their image ids and paths. Of several sources, or of one that is given a name, both
begin with the name and a slash.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from covseg_ray.errors import DatasetError, UsageError
from covseg_ray.storage.datasets.layouts import INFECTION_FOLDER, Sample, read_layout
from covseg_ray.storage.filesystem import locate

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True, slots=True)
class Source:
    """A folder, manifest or packed dataset at ``uri``; ``name`` is empty where it is the only source."""

    name: str
    uri: str

    def qualify(self, identity: str) -> str:
        """An image id or path of this source, unique over all sources."""
        return f"{self.name}/{identity}" if self.name else identity


@dataclass(frozen=True, slots=True)
class SourceFilm:
    """A film of a source: its ``sample`` with paths relative to ``root``, and its ``image_id`` and ``path`` over all
    sources."""

    root: str
    sample: Sample
    image_id: str
    path: str


def name_sources(uris: Sequence[str], names: Sequence[str] = ()) -> list[Source]:
    """The sources with their names: those given, else the name of each one's folder where there are several.

    Raises UsageError where the names are not one for each source, cannot be used as names, or are not unique.
    """
    if not names and len(uris) == 1:
        return [Source("", uris[0])]
    if names and len(names) != len(uris):
        raise UsageError(f"--name: {len(names)} names for {len(uris)} sources; give one for each, in their order")
    for name in names:
        if not _NAME.fullmatch(name):
            raise UsageError(f"--name {name}: use letters, digits, dots, dashes and underscores")
    sources = [Source(name, uri) for name, uri in zip(names or map(_folder_name, uris), uris, strict=True)]
    twice = [name for name, count in Counter(source.name for source in sources).items() if count > 1]
    if twice:
        raise UsageError(f"several sources are named {twice[0]}; give each source a name of its own with --name")
    return sources


def read_sources(sources: Sequence[Source], layout: str | None = None) -> tuple[str, list[SourceFilm]]:
    """The layouts of the sources, and all their films. Raises as :func:`read_layout` does."""
    films: list[SourceFilm] = []
    layouts: list[str] = []
    for source in sources:
        found = read_layout(source.uri, layout)
        layouts.append(found.name)
        films += [
            SourceFilm(found.root, sample, source.qualify(sample.image_id), source.qualify(sample.image))
            for sample in found.samples
        ]
    return ", ".join(sorted(set(layouts))), films


def _folder_name(uri: str) -> str:
    path = locate(uri).uri
    is_manifest = path.lower().endswith(".csv")
    folder = path.rpartition("/")[0] if is_manifest else path.removesuffix("/" + INFECTION_FOLDER.rstrip("/"))
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", folder.rpartition("/")[2]).strip("-.")
    if not _NAME.fullmatch(name):
        raise DatasetError(f"{uri}: its folder has no name that tells its films from others; give one with --name")
    return name

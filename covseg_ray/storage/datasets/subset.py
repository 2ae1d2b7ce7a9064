"""Which films of a dataset are meant: one value from a command or a job down to the reader."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from covseg_ray.errors import UsageError
from covseg_ray.storage.datasets.read import Unit, exclude_films, list_units


@dataclass(frozen=True)
class Subset:
    """The films of one split of the dataset at the URI ``dataset``.

    With ``labels``, only films with one of these labels; ``exclude`` holds the image ids of films to leave out.

    Raises:
        UsageError: the dataset or the split has no name, or ``labels`` is empty or one string.
    """

    dataset: str
    split: str = "val"
    labels: Sequence[str] | None = None
    exclude: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        if not self.dataset or not self.split:
            raise UsageError("dataset and split: must not be empty; give the URI of a packed dataset and a split of it")
        if self.labels is not None and (isinstance(self.labels, str) or not self.labels):
            raise UsageError(f"labels: must be a list of at least one label, not {self.labels!r}; None is all films")

    def all_units(self) -> list[Unit]:
        """The units of the split and the labels, before exclusions. Raises DatasetError for an unknown one."""
        return list_units(self.dataset, self.split, self.labels)

    def units(self) -> list[Unit]:
        """The units of the films. Raises DatasetError for an unknown split or label, or where ``exclude`` names none of
        the films or all of them."""
        units = self.all_units()
        return exclude_films(self.dataset, units, self.exclude) if self.exclude else units

    def __str__(self) -> str:
        return f"{self.dataset}, split {self.split}, {', '.join(self.labels) if self.labels else 'all labels'}"

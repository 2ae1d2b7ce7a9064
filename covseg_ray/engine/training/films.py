"""The films that a job names: their units, the check that they can be trained on, and their shares of an epoch."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from covseg_ray.config.train import Job
from covseg_ray.engine.training.sampling import Shares, weights_for
from covseg_ray.engine.training.split import Source, cache, fits_in_object_store
from covseg_ray.errors import DatasetError, UsageError
from covseg_ray.segmentation.network.bundle import LUNG
from covseg_ray.storage.datasets.read import Unit, has_lungs, list_units, read_info, sources_and_labels
from covseg_ray.storage.filesystem import locate


def find_films(job: Job, split: str) -> Source:
    if not job.data.dataset:
        raise UsageError("data.dataset is not set: give the URI of a packed dataset, --set data.dataset=URI")
    dataset = locate(job.data.dataset).uri  # for workers, whose current folder is another
    units = tuple(list_units(dataset, split, job.data.labels))
    if LUNG in job.model.classes and not has_lungs(dataset, units):
        raise DatasetError(
            f"{dataset}: no film has a lung mask, and model.classes has lung; pack the films with lung masks, or set "
            'model.classes = ["background", "infection"]'
        )
    return Source(
        dataset, units, job.model.classes, shares=shares_of(job, dataset, units) if split == "train" else None
    )


def check_sizes(job: Job, sources: Mapping[str, Source]) -> None:
    rows, batch = sources["train"].rows, job.train.batch_size
    if rows < batch:
        raise DatasetError(
            f"{job.data.dataset}: split train has {rows} films, fewer than one global batch of {batch} "
            f"for {job.most_workers} workers; set train.batch_size to at most {rows}, or pack more films"
        )


def cached(job: Job, sources: Mapping[str, Source]) -> dict[str, Source]:
    """The sources, with their films decoded into the object store where the job's ``data.cache`` says so."""
    pixels = read_info(job.data.dataset).size ** 2
    policy = job.data.cache
    return {
        split: cache(each) if policy == "memory" or (policy == "auto" and fits_in_object_store(each, pixels)) else each
        for split, each in sources.items()
    }


def shares_of(job: Job, dataset: str, units: Sequence[Unit]) -> Shares | None:
    """How the job's ``data.shares`` draw from these units; None where it has none.

    Films of no group of the job are one group more. Raises UsageError for a group without a film, or one that shares
    films with another.
    """
    wanted = job.data.wanted_shares
    if not wanted:
        return None
    found = sources_and_labels(dataset, units)
    films = Counter(each for of_unit in found for each in of_unit)
    groups: dict[tuple[str, str], str] = {}
    for source, label in films:
        names = [name for name in (f"{source}/{label}", source, label) if name in wanted]
        if len(names) > 1:
            raise UsageError(f"data.shares: films of {label} from {source} are in {' and in '.join(names)}; give one")
        groups[source, label] = names[0] if names else ""
    missing = wanted.keys() - groups.values()
    if missing:
        known = sorted(
            {name for source, label in films for name in (source, label, f"{source}/{label}") if name.strip("/")}
        )
        raise UsageError(f"data.shares: {min(missing)} has no film in split train; the groups are {', '.join(known)}")
    names = sorted(set(groups.values()))
    natural = [sum(count for each, count in films.items() if groups[each] == name) for name in names]
    if "" not in names and not math.isclose(sum(wanted.values()), 1):
        raise UsageError("data.shares: every film is in a group, so the shares must add up to 1; leave one group out")
    index = {each: names.index(name) for each, name in groups.items()}
    return Shares(
        groups=tuple(np.array([index[each] for each in of_unit], np.uint8) for of_unit in found),
        weights=weights_for(natural, [wanted.get(name) for name in names]),
        last_epoch=round(job.train.epochs * job.data.shares_until),
    )

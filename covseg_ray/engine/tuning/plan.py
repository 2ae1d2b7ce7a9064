"""The trials of a search: their values, and the check that each can be trained."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import numpy as np

from covseg_ray.config.search import Search
from covseg_ray.config.train import Job, changed, known_keys, nearest
from covseg_ray.errors import ConfigError

# Keys that name a run, or decide how trials are compared: the same for all trials.
NOT_SEARCHED = ("preset", "name", "out", "search", "train.select")


@dataclass(frozen=True)
class Trial:
    """``number`` counts from 1; ``values`` are those of the searched keys, ``job`` the whole, without a search."""

    number: int
    values: Mapping[str, Any]
    job: Job


def plan(job: Job) -> list[Trial]:
    """The trials of a job's search: the same ones for the same seed, and with more of them the first stay as they are.

    Values are drawn at random, evenly over each range or choice: Bergstra and Bengio, Random search for
    hyper-parameter optimization, JMLR 13, 2012. Raises ConfigError where one of them makes no job."""
    edge_jobs(job)
    trials = []
    for number in range(1, job.tune.trials + 1):
        shares = np.random.default_rng((job.seed, number)).random(len(job.search)).tolist()
        wholes = [isinstance(attrgetter(each.key)(job), int) for each in job.search]
        values = {each.key: each.at(u, w) for each, u, w in zip(job.search, shares, wholes, strict=True)}
        trials.append(Trial(number, values, _tried(job, values)))
    return trials


def edge_jobs(job: Job) -> list[Job]:
    """The job with each value of each choice and both ends of each range, one at a time. Raises ConfigError."""
    if not job.search:
        raise ConfigError(
            'the job has no [[search]]: say which keys to search, as [[search]] key = "train.learning_rate", '
            "low = 1e-4, high = 1e-2, log = true (jobs/tune.toml is an example)"
        )
    for key, times in Counter(each.key for each in job.search).items():
        if key in NOT_SEARCHED or key.startswith("tune."):
            raise ConfigError(f"[[search]]: {key} is the same for all trials and cannot be searched")
        if key not in known_keys():
            raise ConfigError(f"[[search]]: unknown key {key}; {nearest(key)}")
        if times > 1:
            raise ConfigError(f"[[search]]: {key} is there {times} times; give all its values at once")
    return [_tried(job, {each.key: value}) for each in job.search for value in _ends(job, each)]


def _ends(job: Job, search: Search) -> tuple[Any, ...]:
    if not search.choose and not isinstance(attrgetter(search.key)(job), (int, float)):
        raise ConfigError(f"[[search]]: {search.key} takes no number, so it has no low and high: give choose = [...]")
    return search.ends


def _tried(job: Job, values: Mapping[str, Any]) -> Job:
    try:
        return changed(job, {"search": (), "tune": {}, **values})
    except ConfigError as error:
        shown = ", ".join(f"{key} = {json.dumps(value)}" for key, value in values.items())
        raise ConfigError(f"[[search]]: {shown} makes no job: {error}") from None

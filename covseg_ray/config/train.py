"""One frozen tree for a training job, from the layers of :mod:`covseg_ray.config.layers`. The defaults are those of the
preset ``paper``, the published recipe.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator

from covseg_ray.config.layers import Preset, flatten, put, read_layers, read_preset, variable
from covseg_ray.config.search import Search, Tune
from covseg_ray.errors import ConfigError

Positive = Annotated[int, Field(ge=1)]
Loss = Literal["focal+jaccard", "cross-entropy+jaccard", "cross-entropy+film-jaccard", "dice"]
Metric = Literal["iou_two_class", "iou_pooled", "dice_pooled", "iou_image", "dice_image", "iou_all", "dice_all"]


class Data(BaseModel, frozen=True, extra="forbid"):
    """Which films."""

    dataset: str = Field(default="", description="URI of a packed dataset")
    labels: tuple[str, ...] | None = Field(default=None, description="only films with these labels; all when absent")
    shares: tuple[Annotated[str, Field(pattern=r"^[^=]+=0?\.\d+$")], ...] = Field(
        default=(),
        description="shares of an epoch's films that groups get, GROUP=SHARE; a group is LABEL, SOURCE or SOURCE/LABEL",
    )
    shares_until: float = Field(default=1.0, gt=0, le=1, description="the part of the epochs in which shares hold")
    cache: Literal["auto", "memory", "stream"] = Field(
        default="auto", description="keep decoded films in Ray's object store, read them every epoch, or decide by size"
    )

    @property
    def wanted_shares(self) -> dict[str, float]:
        """``shares`` by group."""
        return {group: float(share) for group, _, share in (each.rpartition("=") for each in self.shares)}

    @field_validator("shares")
    @classmethod
    def _shares_of_one(cls, shares: tuple[str, ...]) -> tuple[str, ...]:
        groups = [each.rpartition("=")[0] for each in shares]
        if len(set(groups)) < len(groups):
            raise ValueError("a group is there twice")
        if sum(float(each.rpartition("=")[2]) for each in shares) > 1:
            raise ValueError("the shares add up to more than 1")
        return shares


class Model(BaseModel, frozen=True, extra="forbid"):
    architecture: str = Field(default="unet", description="a decoder of segmentation-models-pytorch")
    encoder: str = Field(default="resnet34", description="an encoder of segmentation-models-pytorch")
    encoder_weights: str = Field(default="imagenet", description="imagenet, none, or the path or s3:// URI of a file")
    classes: tuple[str, ...] = Field(
        default=("background", "infection"), description="classes by name; with lung between them it segments lungs too"
    )
    start: str = Field(default="", description="URI of a bundle whose weights to start from, of the same network")
    teachers: tuple[str, ...] = Field(
        default=(), description="URIs of bundles, or models of the package by name, whose probabilities to learn too"
    )


class Train(BaseModel, frozen=True, extra="forbid"):
    """How to train."""

    epochs: Positive = Field(default=50, description="passes over the training films")
    batch_size: Positive = Field(default=32, description="films a step, over all workers together")
    learning_rate: float = Field(default=0.001, gt=0, description="the highest rate of a one-cycle schedule")
    schedule: Literal["constant", "one-cycle"] = Field(default="constant", description="of the learning rate")
    optimizer: Literal["adam", "adamw"] = Field(default="adam", description="Adam, or Adam with decoupled weight decay")
    weight_decay: float = Field(default=0.0, ge=0, description="of the optimizer")
    average: float = Field(default=0.0, ge=0, lt=1, description="decay of the weights' moving average, which is kept")
    loss: Loss = Field(default="focal+jaccard", description="what the optimizer makes smaller")
    soft: float = Field(default=0.5, ge=0, le=1, description="share of the loss against the maps of model.teachers")
    precision: Literal["auto", "fp32", "bf16"] = Field(
        default="auto", description="auto: bf16 where the hardware gains from it"
    )
    compile: Literal["auto", "yes", "no"] = Field(
        default="auto", description="compile the training step; auto: on GPUs, where a C compiler is installed"
    )
    augment: Literal["paper", "chest", "mild", "archive", "flips", "none"] = Field(
        default="paper", description="random changes of the training films"
    )
    select: Metric = Field(
        default="iou_two_class", description="the validation metric that chooses the best checkpoint"
    )


class Resources(BaseModel, frozen=True, extra="forbid"):
    """What one worker takes, and how often a run restarts after a loss."""

    gpu: Literal["auto", "yes", "no"] = Field(
        default="auto", description="a GPU for each worker; auto: if the cluster has one for every worker"
    )
    cpus_per_worker: float = Field(default=1, gt=0, description="CPUs that Ray reserves for each worker")
    memory_gib_per_worker: float = Field(default=0, ge=0, description="memory that Ray reserves; 0 reserves none")
    node_labels: tuple[Annotated[str, Field(pattern="^[^=]+=[^=]+$")], ...] = Field(
        default=(), description="labels of the nodes that may train, KEY=VALUE"
    )
    max_failures: int = Field(default=3, ge=-1, description="restarts after a lost worker; -1: no limit")
    max_preemptions: int = Field(default=-1, ge=-1, description="restarts after a preempted node; -1: no limit")


class Tracking(BaseModel, frozen=True, extra="forbid"):
    tensorboard: bool = Field(default=True, description="write TensorBoard events")
    mlflow: str = Field(default="", description="tracking URI (a server or sqlite:///FILE); off when empty")


class Job(BaseModel, frozen=True, extra="forbid"):
    """A training job. A run leaves ``out/name/{metrics.jsonl, report.html, checkpoints/, bundle/}``. With a ``search``
    it is one for ``covseg-ray tune``."""

    preset: Preset = Field(default="paper", description="the recipe that sets every key not given here")
    name: str = Field(
        default="paper", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="the run's folder below out"
    )
    out: str = Field(default="runs", description="folder or s3:// URI of runs")
    workers: int | tuple[int, int] = Field(
        default=1, description="training processes: a number, or the fewest and the most, as [2, 8]"
    )
    seed: int = Field(default=0, ge=0, description="the same seed gives the same weights on a CPU, bit for bit")
    data: Data = Data()
    model: Model = Model()
    train: Train = Train()
    resources: Resources = Resources()
    tracking: Tracking = Tracking()
    tune: Tune = Tune()
    search: tuple[Search, ...] = Field(default=(), description="keys to search and their values; see below")

    @property
    def fewest_workers(self) -> int:
        return self.workers if isinstance(self.workers, int) else self.workers[0]

    @property
    def most_workers(self) -> int:
        return self.workers if isinstance(self.workers, int) else self.workers[1]

    @field_validator("workers", mode="before")
    @classmethod
    def _a_number_or_a_range(cls, workers: Any) -> Any:
        ends = workers if isinstance(workers, (list, tuple)) and len(workers) == 2 else [workers, workers]
        if not all(type(end) is int for end in ends) or not 1 <= ends[0] <= ends[1]:
            raise ValueError("give a number from 1, or the fewest and the most, as [2, 8]")
        return workers

    @field_validator("out")
    @classmethod
    def _no_slash_at_the_end(cls, out: str) -> str:
        return out.rstrip("/") or out

    @model_validator(mode="after")
    def _batch_is_shared(self) -> Job:
        if self.train.batch_size < self.most_workers:
            raise ValueError(f"train.batch_size {self.train.batch_size} is fewer than {self.most_workers} workers")
        if isinstance(self.workers, int) and self.train.batch_size % self.workers:
            near = max(1, round(self.train.batch_size / self.workers)) * self.workers
            raise ValueError(
                f"train.batch_size {self.train.batch_size} cannot be shared evenly by {self.workers} workers; "
                f"the nearest that can is {near}"
            )
        return self


def load(path: str | None, overrides: Sequence[str] = ()) -> Job:
    """The job that a preset, a file, the environment and ``--set`` give together. ``path`` is a file, or the name of a
    preset where no file has that name. Raises ConfigError."""
    given = (pair for _, layer in read_layers(path, overrides, known_keys()) for pair in layer.items())
    return _validated({}, given, path)


def changed(job: Job, values: Mapping[str, Any]) -> Job:
    """The job with other values, by dotted key. Raises ConfigError where they make no job."""
    return _validated(job.model_dump(), values.items(), None)


def written(job: Job) -> str:
    """The job as a file that `load` reads to the same job."""
    searched = (each.model_dump(mode="json", exclude_defaults=True) for each in job.search)
    tables = [f"\n[[search]]\n{_lines(each)}" for each in searched]
    none = "search = []\n" if "search" in read_preset(job.preset) and not tables else ""
    return "".join([_lines(job.model_dump(mode="json", exclude={"search"})), none, *tables])


def _lines(tree: Mapping[str, Any]) -> str:
    values = ((key, value) for key, value in flatten(tree) if value is not None)
    return "".join(f"{key} = {json.dumps(value, ensure_ascii=False)}\n" for key, value in values)


def sources(path: str | None, overrides: Sequence[str] = ()) -> dict[str, str]:
    """Where each value came from, by dotted key: ``default``, ``preset NAME``, the file's name, the variable's name or
    ``--set``."""
    origin = dict.fromkeys(known_keys(), "default")
    for name, layer in read_layers(path, overrides, origin):
        for key in layer:
            origin[key] = name if name != "environment" else variable(key)
    return origin


def known_keys() -> list[str]:
    """Every key of a job file, dotted."""
    return [key for key, _ in flatten(Job().model_dump())]


def _validated(tree: dict[str, Any], values: Iterable[tuple[str, Any]], path: str | None) -> Job:
    for key, value in values:
        put(tree, key, value)
    try:
        return Job.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(_explain(error, path)) from None


def _explain(error: ValidationError, path: str | None) -> str:
    first = error.errors()[0]
    where = f" in {path}" if path else ""
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return f"unknown key {key}{where}; {nearest(key)}"
    problem = first["msg"].removeprefix("Value error, ")
    if not key:
        return f"{problem}{where}"
    if first["type"] == "value_error" and key.startswith("search."):
        return f"[[search]]{where}: {problem}"
    return f"key {key}{where}: {problem.lower()}, got {json.dumps(first['input'], default=str)}"


def nearest(key: str) -> str:
    """The known key that an unknown one was most likely meant to be, in words."""
    keys = [f"search.{name}" for name in Search.model_fields] if key.startswith("search.") else known_keys()
    close = difflib.get_close_matches(key, keys, n=1, cutoff=0.5)
    if not close:
        by_last = {k.rsplit(".", 1)[-1]: k for k in keys}
        close = [by_last[k] for k in difflib.get_close_matches(key.rsplit(".", 1)[-1], by_last, n=1, cutoff=0.5)]
    return f"did you mean {close[0]}?" if close else f"the keys are {', '.join(keys)}"


def differences(earlier: Job, later: Job) -> dict[str, tuple[Any, Any]]:
    """What two jobs disagree on that would change the trained weights, by dotted key."""
    old, new = _compared(earlier), _compared(later)
    free = ("preset", "out", "name", "data.cache", "resources.", "tracking.", "tune.trials", "tune.at_once")
    both = {key: (old.get(key), new.get(key)) for key in old | new}
    return {key: (was, now) for key, (was, now) in both.items() if was != now and not key.startswith(free)}


def _compared(job: Job) -> dict[str, Any]:
    searched = {f"search of {each.key}": each.model_dump(exclude_defaults=True, exclude={"key"}) for each in job.search}
    return dict(flatten(job.model_dump(exclude={"search"}))) | searched

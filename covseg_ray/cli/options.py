"""Options that several commands share, with one wording."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import typer

from covseg_ray.config import DEFAULT_MODEL

if TYPE_CHECKING:
    from covseg_ray.storage.datasets.read import Subset

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document to standard output.")]
Address = Annotated[
    str | None,
    typer.Option("--address", metavar="ADDRESS", help="Connect to a running Ray cluster; by default start one here."),
]
BUNDLE_HELP = f"Path or s3:// URI of a model bundle, or {DEFAULT_MODEL} for the included model."
BundleUri = Annotated[str, typer.Argument(metavar="BUNDLE", help=BUNDLE_HELP)]
Model = Annotated[str, typer.Option("--model", metavar="BUNDLE", help=BUNDLE_HELP)]
DatasetUri = Annotated[str, typer.Argument(metavar="DATASET", help="Path or s3:// URI of a packed dataset.")]
Split = Annotated[str, typer.Option("--split", metavar="SPLIT", help="Use this split of the dataset.")]
Labels = Annotated[str | None, typer.Option("--labels", metavar="LABEL,...", help="Use only films with these labels.")]
Workers = Annotated[int, typer.Option("--workers", min=1, help="Predict with this many models in parallel.")]
Report = Annotated[str | None, typer.Option("--report", metavar="HTML", help="Write a report with images.")]
JobFile = Annotated[
    str,
    typer.Option("-c", "--config", metavar="JOB.toml", help="Read this job file, or a preset by name, as paper."),
]
Engine = Annotated[
    Literal["auto", "torch", "openvino", "onnx"], typer.Option("--engine", help="Predict with this engine.")
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override one key, as train.epochs=3; repeatable."),
]
Exclude = Annotated[
    str | None,
    typer.Option("--exclude", metavar="FILE", help="Leave out the image ids of this list, from `data audit --side`."),
]
RejectUnlike = Annotated[
    bool,
    typer.Option("--reject-unlike", help="Reject what does not look like a frontal chest film: reason not-frontal."),
]
AllowOpen = Annotated[
    bool, typer.Option("--allow-open-cluster", help="Allow a cluster beyond loopback without a token.")
]


def say(line: str) -> None:
    """Progress and hints go to standard error: standard output is for the result."""
    typer.echo(line, err=True)


def named(words: str | None) -> list[str]:
    """``A, B`` as the two words, each once; nothing where nothing was given."""
    return list(dict.fromkeys(word.strip() for word in (words or "").split(",") if word.strip()))


def require_reachable(uri: str) -> None:
    """Raise StorageError where ``uri`` is out of reach: before torch and Ray are loaded, which takes seconds."""
    from covseg_ray.storage.filesystem import exists

    exists(uri)


def subset(dataset: str, split: str, labels: str | None, exclude: str | None = None) -> Subset:
    """The films of a dataset that the options name. Raises StorageError where it is out of reach."""
    require_reachable(dataset)
    from covseg_ray.storage.datasets.pack import read_exclusions
    from covseg_ray.storage.datasets.read import Subset

    return Subset(dataset, split, named(labels) or None, read_exclusions(exclude) if exclude else frozenset())

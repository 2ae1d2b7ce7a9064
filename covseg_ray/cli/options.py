"""Options that several commands share, with one wording."""

from __future__ import annotations

from typing import Annotated

import typer

from covseg_ray.config import DEFAULT_MODEL

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on standard output.")]
Address = Annotated[
    str | None, typer.Option("--address", help="A running Ray cluster; started here, on loopback, when not given.")
]
BUNDLE_HELP = f"Path or s3:// URI of a model bundle, or {DEFAULT_MODEL} for the included model."
BundleUri = Annotated[str, typer.Argument(metavar="BUNDLE", help=BUNDLE_HELP)]
Model = Annotated[str, typer.Option("--model", metavar="BUNDLE", help=BUNDLE_HELP)]
DatasetUri = Annotated[str, typer.Argument(metavar="DATASET", help="Path or s3:// URI of a packed dataset.")]
Split = Annotated[str, typer.Option("--split", help="Which split of the dataset.")]
Labels = Annotated[str | None, typer.Option("--labels", metavar="LABEL,...", help="Only films with these labels.")]
Workers = Annotated[int, typer.Option("--workers", min=1, help="How many models predict side by side.")]
Report = Annotated[str | None, typer.Option("--report", metavar="HTML", help="Write a report with pictures.")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Set one key of the job; may be repeated.")
]
Exclude = Annotated[
    str | None,
    typer.Option("--exclude", metavar="FILE", help="List of image ids to leave out, as `data audit --side` writes."),
]
AllowOpen = Annotated[
    bool, typer.Option("--allow-open-cluster", help="Use a cluster beyond loopback that wants no token.")
]


def say(line: str) -> None:
    """Progress and hints go to standard error: standard output is for the result."""
    typer.echo(line, err=True)


def named(words: str | None) -> list[str]:
    """``A, B`` as the two words, each once; nothing where nothing was given."""
    return list(dict.fromkeys(word.strip() for word in (words or "").split(",") if word.strip()))


def ask(uri: str) -> None:
    """Raise StorageError where ``uri`` is out of reach: told before torch and Ray are loaded, which takes seconds."""
    from covseg_ray.storage.filesystem import exists

    exists(uri)

"""``covseg-ray config show``: the configuration that would run, and where each value came from."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from covseg_ray.cli.options import Json

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from rich.table import Table

app = typer.Typer(help="Look at a job's configuration.", no_args_is_help=True)


@app.callback()
def root() -> None:
    pass


@app.command()
def show(
    job: Annotated[
        str | None, typer.Option("-c", "--config", metavar="JOB.toml", help="A job file; the defaults alone without.")
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Overrule one key, as train.epochs=3.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Print the effective configuration and where each value came from."""
    from covseg_ray.config.train import load, sources

    tree = load(job, overrides or ()).model_dump(mode="json")
    origins = sources(job, overrides or ())
    if as_json:
        typer.echo(json.dumps({"job": tree, "sources": origins}, indent=2))
        return
    from rich.console import Console

    Console().print(_table(tree, origins))


def _table(tree: Mapping[str, Any], origins: Mapping[str, str]) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table("Key", "Value", "From", box=None, pad_edge=False, header_style="bold")
    for key, value in _flatten(tree):
        origin = origins[key]
        shown = Text(json.dumps(value, ensure_ascii=False), overflow="fold")
        table.add_row(Text(key), shown, Text(origin, style="dim" if origin == "default" else "green"))
    return table


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value

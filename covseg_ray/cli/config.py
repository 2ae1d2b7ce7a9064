"""``covseg-ray config show``: the configuration that would run, and where each value comes from."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from covseg_ray.cli import tables
from covseg_ray.cli.options import Json, Overrides

app = typer.Typer(name="config", help="Show a job's configuration.")


@app.command()
def show(
    job: Annotated[
        str | None,
        typer.Option(
            "-c", "--config", metavar="JOB.toml", help="Show this job file, or a preset by name; by default paper."
        ),
    ] = None,
    overrides: Overrides = None,
    as_json: Json = False,
) -> None:
    """Print the effective configuration and where each value comes from."""
    from covseg_ray.config.layers import flatten
    from covseg_ray.config.train import load, sources

    tree = load(job, overrides or ()).model_dump(mode="json")
    origins = sources(job, overrides or ())
    if as_json:
        typer.echo(json.dumps({"job": tree, "sources": origins}, indent=2))
        return
    from rich.text import Text

    styles = {origin: "dim" if origin == "default" else "green" for origin in origins.values()}
    rows: list[list[str | Text]] = [
        [key, json.dumps(value, ensure_ascii=False), Text(origins[key], style=styles[origins[key]])]
        for key, value in flatten(tree)
    ]
    tables.show(tables.table(["Key", "Value", "From"], rows))

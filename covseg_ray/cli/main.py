"""The root of the command line: its commands, and how an error is shown."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from covseg_ray import __version__
from covseg_ray.cli import bench, config, data, model, results
from covseg_ray.cli.cluster import jobs, submit
from covseg_ray.cli.cluster.doctor import doctor
from covseg_ray.cli.demo import demo
from covseg_ray.cli.segment import segment
from covseg_ray.cli.serving.client import client
from covseg_ray.cli.serving.serve import serve
from covseg_ray.cli.training.evaluate import compare, evaluate
from covseg_ray.cli.training.train import train, tune
from covseg_ray.errors import CovsegError

app = typer.Typer(
    name="covseg-ray",
    help="Segment COVID-19 infection on chest X-rays, at the scale of an archive. Research software, not a medical "
    "device.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
for group in (data, model, results, config, submit, jobs, bench):
    app.add_typer(group.app, no_args_is_help=True)
for command in (demo, train, tune, evaluate, compare, segment, serve, client, doctor):
    app.command()(command)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"covseg-ray {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command line; a :class:`CovsegError` becomes one line on standard error and its own exit code."""
    # Without it, a call after the end of a session would start Ray again, or join any cluster that runs here.
    os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")
    try:
        app()
    except CovsegError as error:
        message = " ".join(str(error).split())
        typer.echo(f"error: {message}", err=True)
        sys.exit(error.exit_code)

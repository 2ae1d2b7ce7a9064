"""``covseg-ray jobs``: what was submitted to a cluster."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from covseg_ray.cli.cluster.submit import Cluster
from covseg_ray.cli.options import Json

if TYPE_CHECKING:
    from covseg_ray.engine.cluster.jobs import JobState

app = typer.Typer(help="Jobs on a Ray cluster.", no_args_is_help=True, rich_markup_mode=None)

JobId = Annotated[str, typer.Argument(metavar="ID", help="As submit printed it.")]


@app.command("list")
def list_jobs(address: Cluster, as_json: Json = False) -> None:
    """Every job that was submitted, the latest first."""
    from covseg_ray.engine.cluster import jobs as engine

    found = engine.states(engine.connect(address))
    if as_json:
        typer.echo(json.dumps([asdict(job) for job in found]))
        return
    width = max((len(job.id) for job in found), default=2)
    typer.echo(f"{'id':<{width}}  status     exit  started           seconds  command")
    for job in found:
        typer.echo(_row(job, width))


@app.command()
def logs(job_id: JobId, address: Cluster) -> None:
    """What a job has printed so far."""
    from covseg_ray.engine.cluster import jobs as engine

    typer.echo(engine.log(engine.connect(address), job_id), nl=False)


@app.command()
def stop(job_id: JobId, address: Cluster, as_json: Json = False) -> None:
    """End a job, as SIGTERM does. Submitted again, it goes on where it was."""
    from covseg_ray.engine.cluster import jobs as engine

    _tell(engine.stop(engine.connect(address), job_id), as_json)


@app.command()
def wait(job_id: JobId, address: Cluster, as_json: Json = False) -> None:
    """Wait for a job's end, and end with its exit code."""
    from covseg_ray.engine.cluster import jobs as engine

    found = engine.wait(engine.connect(address), job_id)
    _tell(found, as_json)
    raise typer.Exit(found.exit_code or 0)


def _tell(job: JobState, as_json: bool) -> None:
    typer.echo(json.dumps(asdict(job)) if as_json else f"{job.id}  {job.status}, exit code {job.exit_code}")


def _row(job: JobState, width: int) -> str:
    started = time.strftime("%Y-%m-%d %H:%M", time.localtime(job.started)) if job.started else "-"
    seconds = f"{(job.ended or time.time()) - job.started:,.0f}" if job.started else "-"
    code = "-" if job.exit_code is None else job.exit_code
    return f"{job.id:<{width}}  {job.status:<9}  {code:>4}  {started:<16}  {seconds:>7}  {job.command}"

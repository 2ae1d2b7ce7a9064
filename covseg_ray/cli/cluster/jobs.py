"""``covseg-ray jobs``: the jobs on a cluster."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from covseg_ray.cli.cluster.submit import Cluster
from covseg_ray.cli.options import Json
from covseg_ray.cli.tables import show, table

if TYPE_CHECKING:
    from covseg_ray.engine.cluster.jobs import JobState

app = typer.Typer(name="jobs", help="Jobs on a Ray cluster.")

JobId = Annotated[str, typer.Argument(metavar="ID", help="The id that `submit` printed.")]


@app.command("list")
def list_jobs(address: Cluster, as_json: Json = False) -> None:
    """List submitted jobs, the latest first."""
    from covseg_ray.engine.cluster import jobs as engine

    found = engine.states(engine.connect(address))
    if as_json:
        typer.echo(json.dumps([asdict(job) for job in found]))
        return
    header = ["id", "status", "exit", "started", "seconds", "command"]
    show(table(header, [_row(job) for job in found], right=("exit", "seconds")))


@app.command()
def logs(job_id: JobId, address: Cluster) -> None:
    """Print the output of a job so far."""
    from covseg_ray.engine.cluster import jobs as engine

    typer.echo(engine.log(engine.connect(address), job_id), nl=False)


@app.command()
def stop(job_id: JobId, address: Cluster, as_json: Json = False) -> None:
    """Stop a job by SIGTERM; submit it again to resume."""
    from covseg_ray.engine.cluster import jobs as engine

    _print(engine.stop(engine.connect(address), job_id), as_json)


@app.command()
def wait(job_id: JobId, address: Cluster, as_json: Json = False) -> None:
    """Wait for a job to end, and exit with its exit code."""
    from covseg_ray.engine.cluster import jobs as engine

    found = engine.wait(engine.connect(address), job_id)
    _print(found, as_json)
    raise typer.Exit(found.exit_code or 0)


def _print(job: JobState, as_json: bool) -> None:
    typer.echo(json.dumps(asdict(job)) if as_json else f"{job.id}  {job.status}, exit code {job.exit_code}")


def _row(job: JobState) -> list[str]:
    started = time.strftime("%Y-%m-%d %H:%M", time.localtime(job.started)) if job.started else "-"
    seconds = f"{(job.ended or time.time()) - job.started:,.0f}" if job.started else "-"
    code = "-" if job.exit_code is None else str(job.exit_code)
    return [job.id, job.status, code, started, seconds, job.command]

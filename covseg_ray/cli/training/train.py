"""``covseg-ray train`` and ``tune``: a job file to a bundle, or with a search to the best job and its bundle."""

from __future__ import annotations

import json

import typer

from covseg_ray.cli.options import Address, AllowOpen, JobFile, Json, Overrides, require_reachable


def train(
    job_file: JobFile,
    overrides: Overrides = None,
    address: Address = None,
    allow_open: AllowOpen = False,
    as_json: Json = False,
) -> None:
    """Train a model; run the same command again to resume."""
    from covseg_ray.config import train as config

    job = config.load(job_file, overrides or [])
    require_reachable(job.out)
    from covseg_ray.cli.training.progress import TrainingProgress
    from covseg_ray.engine.training import run as engine

    with TrainingProgress(job.train.select) as progress:
        outcome = engine.train(job, progress, address, allow_open)
    if as_json:
        typer.echo(json.dumps({key: getattr(outcome, key) for key in ("bundle", "epochs", "best", "seconds")}))
        return
    score = outcome.metrics[job.train.select]
    typer.echo(f"bundle  {outcome.bundle}")
    typer.echo(f"report  {outcome.report}")
    typer.echo(
        f"best    epoch {outcome.best['epoch']:.0f} of {outcome.epochs}, {job.train.select} {score.value:.4f} "
        f"(95 % interval {score.low:.4f} to {score.high:.4f}), {outcome.seconds:.0f} s"
    )


def tune(
    job_file: JobFile,
    overrides: Overrides = None,
    address: Address = None,
    allow_open: AllowOpen = False,
    as_json: Json = False,
) -> None:
    """Search for the best values of a job's keys; run the same command again to resume."""
    from covseg_ray.config import train as config
    from covseg_ray.engine.tuning import plan as trials

    job = config.load(job_file, overrides or [])
    trials.plan(job)
    require_reachable(job.out)
    from covseg_ray.cli.training.progress import SearchProgress
    from covseg_ray.engine.tuning import run as engine
    from covseg_ray.reports.trial_result import format_value

    select = job.train.select
    with SearchProgress(select) as progress:
        outcome = engine.tune(job, progress, address, allow_open)
    best = outcome.best
    if as_json:
        document = {
            "trials": [result.row(select) for result in outcome.results],
            "best": {**best.values, select: best.score(select)},
            "job": outcome.job,
            "seconds": outcome.seconds,
        }
        typer.echo(json.dumps(document))
        return
    typer.echo(f"best    trial {best.number}, {select} {best.score(select):.4f}, {outcome.seconds:.0f} s")
    for key, value in best.values.items():
        typer.echo(f"        {key} {format_value(value)}")
    typer.echo(f"job     {outcome.job}")
    typer.echo(f"bundle  {outcome.bundle}")
    typer.echo(f"report  {outcome.report}")

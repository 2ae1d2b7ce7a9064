"""``covseg-ray bench``: throughput of this machine or a cluster, stage by stage, and what limits it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from covseg_ray.cli.options import (
    Address,
    AllowOpen,
    BundleUri,
    Engine,
    JobFile,
    Json,
    Model,
    Overrides,
    require_reachable,
    say,
)
from covseg_ray.cli.tables import show, table
from covseg_ray.config import DEFAULT_MODEL

if TYPE_CHECKING:
    from rich.table import Table

    from covseg_ray.engine.bench.rounds import Bench, Rate

app = typer.Typer(name="bench", help="Measure the throughput of this machine or a cluster, stage by stage.")

Rounds = Annotated[int, typer.Option("--rounds", min=1, help="Measure this many rounds, and report medians.")]
Films = Annotated[int, typer.Option("--films", min=8, help="Keep this many films in memory.")]


@app.command()
def predict(
    bundles: Annotated[list[str], typer.Argument(metavar="BUNDLE...", help="Paths or s3:// URIs of model bundles.")],
    films: Films = 64,
    rounds: Rounds = 5,
    as_json: Json = False,
) -> None:
    """Measure films/s of models with every installed engine, relative to a plain script."""
    from covseg_ray.engine.bench.predict import bench_predict

    _show(bench_predict(bundles, films, rounds, say), as_json)


@app.command()
def segment(
    source: Annotated[
        str, typer.Argument(metavar="SOURCE", help="A sample of the archive; each round segments all of it.")
    ],
    model: Model = DEFAULT_MODEL,
    out: Annotated[
        str | None, typer.Option("--out", metavar="OUT", help="Write results here; by default to a temporary folder.")
    ] = None,
    engine: Engine = "auto",
    films: Films = 256,
    rounds: Rounds = 3,
    address: Address = None,
    allow_open: AllowOpen = False,
    as_json: Json = False,
) -> None:
    """Measure films/s of bulk segmentation and of each of its stages, relative to the model alone."""
    require_reachable(out or source)
    from covseg_ray.engine.bench.segment import bench_segment
    from covseg_ray.engine.bulk.run import Request

    request = Request(source, out or "", model, engine=engine)
    _show(bench_segment(request, films, rounds, say, address, allow_open), as_json)


@app.command()
def train(
    job_file: JobFile,
    overrides: Overrides = None,
    steps: Annotated[int, typer.Option("--steps", min=2, help="Run this many optimizer steps per round.")] = 8,
    rounds: Rounds = 3,
    address: Address = None,
    allow_open: AllowOpen = False,
    as_json: Json = False,
) -> None:
    """Measure films/s of training and of its input pipeline, relative to bare steps on films in memory."""
    from covseg_ray.config import train as config

    job = config.load(job_file, overrides or [])
    from covseg_ray.engine.bench.train import bench_train

    _show(bench_train(job, steps, rounds, say, address, allow_open), as_json)


@app.command()
def serve(
    bundle: BundleUri,
    clients: Annotated[
        str,
        typer.Option("--clients", metavar="N,...", help="Load the endpoint with these numbers of concurrent clients."),
    ] = "1,16,64",
    seconds: Annotated[float, typer.Option("--seconds", min=1, help="Apply each load for this long.")] = 20,
    rounds: Rounds = 1,
    as_json: Json = False,
) -> None:
    """Measure requests/s and latency of an endpoint on this machine, relative to the model alone."""
    from covseg_ray.engine.bench.serve import bench_serve, numbers

    _show(bench_serve(bundle, numbers(clients), seconds, rounds, say), as_json)


def _show(bench: Bench, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(bench.document()))
        return
    machine = ", ".join(f"{name} {value}" for name, value in bench.machine.items())
    show(machine, rates_table(bench), *bench.advice)


def rates_table(bench: Bench) -> Table:
    """The rate that the others are measured by, then the others, each with its ratio to that."""
    columns = [bench.what, bench.unit, "lowest to highest", f"times {bench.against.name}", ""]
    rows = [
        [rate.name, f"{rate.median:,.1f}", _spread(rate), f"{bench.ratio(rate):.2f}", rate.note]
        if rate.rounds
        else [rate.name, "", "", "", rate.note]
        for rate in (bench.against, *bench.rates)
    ]
    return table(columns, rows, right=columns[1:4])


def _spread(rate: Rate) -> str:
    return f"{min(rate.rounds):,.1f} to {max(rate.rounds):,.1f}"

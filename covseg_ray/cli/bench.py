"""``covseg-ray bench``: what this machine, or a cluster, does a second, stage by stage, and what to give it more of."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from covseg_ray.cli.options import Address, AllowOpen, BundleUri, Json, Overrides, ask, say

if TYPE_CHECKING:
    from covseg_ray.reports.bench import Bench

WIDTH = 160  # of the table in a file or a pipe

app = typer.Typer(
    help="Measure this machine, or a cluster: each stage, the bare model, and the ratio.", no_args_is_help=True
)

Rounds = Annotated[int, typer.Option("--rounds", min=1, help="Each is measured so often, in turn; medians are shown.")]
Films = Annotated[int, typer.Option("--films", min=8, help="How many films in memory.")]
Engine = Annotated[str, typer.Option("--engine", help="auto, torch, openvino or onnx.")]


@app.callback()
def root() -> None:
    pass


@app.command()
def predict(
    bundles: Annotated[list[str], typer.Argument(metavar="BUNDLE...", help="Paths or s3:// URIs of model bundles.")],
    films: Films = 64,
    rounds: Rounds = 5,
    as_json: Json = False,
) -> None:
    """Films/s of a model in memory with every engine that is here, over those of a plain script."""
    from covseg_ray.engine.bench.predict import bench_predict

    _show(bench_predict(bundles, films, rounds, say), as_json)


@app.command()
def segment(
    source: Annotated[str, typer.Argument(help="A sample of the archive; all of it is segmented, once a round.")],
    model: Annotated[str, typer.Option("--model", metavar="BUNDLE", help="Path or s3:// URI of a model bundle.")],
    out: Annotated[
        str | None, typer.Option("--out", help="Where the results go; a temporary folder when not given.")
    ] = None,
    engine: Engine = "auto",
    films: Films = 256,
    rounds: Rounds = 3,
    address: Address = None,
    allow_open: AllowOpen = False,
    as_json: Json = False,
) -> None:
    """Films/s of each stage of a bulk segmentation and of the whole, over the model in memory."""
    ask(out or source)
    from covseg_ray.engine.bench.segment import Sample, bench_segment

    _show(bench_segment(Sample(source, model, engine, films), out, rounds, say, address, allow_open), as_json)


@app.command()
def train(
    job_file: Annotated[str, typer.Option("-c", "--config", metavar="JOB.toml", help="The training job.")],
    overrides: Overrides = None,
    steps: Annotated[int, typer.Option("--steps", min=2, help="Of the optimizer, a round.")] = 8,
    rounds: Rounds = 3,
    address: Address = None,
    allow_open: AllowOpen = False,
    as_json: Json = False,
) -> None:
    """Films/s of a job's training and of what feeds it, over bare steps on films in memory."""
    from covseg_ray.config import train as config

    job = config.load(job_file, overrides or [])
    from covseg_ray.engine.bench.train import bench_train

    _show(bench_train(job, steps, rounds, say, address, allow_open), as_json)


@app.command()
def serve(
    bundle: BundleUri,
    clients: Annotated[
        str, typer.Option("--clients", metavar="N,...", help="How many wait for their answers at a time.")
    ] = "1,16,64",
    seconds: Annotated[float, typer.Option("--seconds", min=1, help="Of load, each.")] = 20,
    rounds: Rounds = 1,
    as_json: Json = False,
) -> None:
    """Requests/s and latency of the endpoint on this machine, over the model in memory."""
    from covseg_ray.engine.bench.serve import bench_serve, numbers

    _show(bench_serve(bundle, numbers(clients), seconds, rounds, say), as_json)


def _show(bench: Bench, as_json: bool) -> None:
    from covseg_ray.reports import bench as reports

    if as_json:
        typer.echo(json.dumps(bench.document()))
        return
    from rich.console import Console

    typer.echo(", ".join(f"{name} {value}" for name, value in bench.machine.items()))
    Console(width=None if sys.stdout.isatty() else WIDTH).print(reports.table(bench))
    for line in bench.advice:
        typer.echo(line)

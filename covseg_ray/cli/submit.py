"""``covseg-ray submit``: a command as a job on a Ray cluster, from where there is only the package and the token."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from covseg_ray.cli import bench
from covseg_ray.cli.evaluate import evaluate
from covseg_ray.cli.options import AllowOpen, Json, say
from covseg_ray.cli.segment import segment
from covseg_ray.cli.serve import serve
from covseg_ray.cli.train import train
from covseg_ray.cli.tune import tune
from covseg_ray.errors import EXIT_SIGINT, UsageError

if TYPE_CHECKING:
    from covseg_ray.engine.submit import Client

JOB_FILE = "job.toml"
SERVE_FILE = "serve.yaml"
WITH_ITS_WORDS = {"allow_extra_args": True, "ignore_unknown_options": True}

app = typer.Typer(help="Run a command as a job on a Ray cluster.", no_args_is_help=True, rich_markup_mode=None)

Cluster = Annotated[str, typer.Option("--address", metavar="URL", help="The cluster's jobs API, as http://HEAD:8265.")]
Image = Annotated[
    str | None, typer.Option(metavar="REF", help="The image that the nodes run, with covseg-ray in it: it is not sent.")
]
Detach = Annotated[bool, typer.Option("--detach", help="Print the job's id and do not wait for its end.")]


@app.command("train", context_settings=WITH_ITS_WORDS)
def submit_train(
    context: typer.Context,
    address: Cluster,
    allow_open: AllowOpen = False,
    image: Image = None,
    detach: Detach = False,
    as_json: Json = False,
) -> None:
    """What `covseg-ray train` takes: -c JOB.toml, --set KEY=VALUE. The job is checked here before anything is sent."""
    from covseg_ray import config

    given = parsed(train, context.args)
    job = config.load(given["job_file"], given["overrides"] or [])
    sent = Job(["train", "-c", JOB_FILE], {JOB_FILE: config.written(job)})
    _submit(sent, Way(address, allow_open, image), detach, as_json)


@app.command("tune", context_settings=WITH_ITS_WORDS)
def submit_tune(
    context: typer.Context,
    address: Cluster,
    allow_open: AllowOpen = False,
    image: Image = None,
    detach: Detach = False,
    as_json: Json = False,
) -> None:
    """What `covseg-ray tune` takes: -c JOB.toml, --set KEY=VALUE. It is checked here before anything is sent."""
    from covseg_ray import config, trials

    given = parsed(tune, context.args)
    job = config.load(given["job_file"], given["overrides"] or [])
    trials.plan(job)
    sent = Job(["tune", "-c", JOB_FILE], {JOB_FILE: config.written(job)})
    _submit(sent, Way(address, allow_open, image), detach, as_json)


@app.command("evaluate", context_settings=WITH_ITS_WORDS)
def submit_evaluate(
    context: typer.Context,
    address: Cluster,
    allow_open: AllowOpen = False,
    image: Image = None,
    detach: Detach = False,
    as_json: Json = False,
) -> None:
    """What `covseg-ray evaluate` takes: BUNDLE DATASET, --split, --labels, --workers, --report."""
    parsed(evaluate, context.args)
    _submit(Job(["evaluate", *context.args]), Way(address, allow_open, image), detach, as_json)


@app.command("segment", context_settings=WITH_ITS_WORDS)
def submit_segment(
    context: typer.Context,
    address: Cluster,
    allow_open: AllowOpen = False,
    image: Image = None,
    detach: Detach = False,
    as_json: Json = False,
) -> None:
    """What `covseg-ray segment` takes: SOURCE OUT --model BUNDLE, --write, --engine, --max-rejects, --actors."""
    parsed(segment, context.args)
    _submit(Job(["segment", *context.args]), Way(address, allow_open, image), detach, as_json)


@app.command("bench", context_settings=WITH_ITS_WORDS)
def submit_bench(
    context: typer.Context,
    what: Annotated[str, typer.Argument(metavar="segment|train")],
    address: Cluster,
    allow_open: AllowOpen = False,
    image: Image = None,
    detach: Detach = False,
    as_json: Json = False,
) -> None:
    """What `covseg-ray bench segment` or `covseg-ray bench train` takes, but for --plot."""
    if what == "segment":
        parsed(bench.segment, context.args)
        sent = Job(["bench", "segment", *context.args])
    elif what == "train":
        from covseg_ray import config

        given = parsed(bench.train, context.args)
        job = config.load(given["job_file"], given["overrides"] or [])
        counts = ["--steps", str(given["steps"]), "--rounds", str(given["rounds"])]
        sent = Job(["bench", "train", "-c", JOB_FILE, *counts], {JOB_FILE: config.written(job)})
    else:
        raise UsageError(f"submit bench {what}: unknown; it takes segment or train")
    _submit(sent, Way(address, allow_open, image), detach, as_json)


@app.command("serve", context_settings=WITH_ITS_WORDS)
def submit_serve(
    context: typer.Context,
    address: Cluster,
    allow_open: AllowOpen = False,
    image: Image = None,
    detach: Detach = False,
    as_json: Json = False,
) -> None:
    """What `covseg-ray serve` takes: -c SERVE.yaml, --model, --host, --port, --keys-file (a path on the nodes).
    The endpoint is there until the job is stopped."""
    from covseg_ray import serving

    given = parsed(serve, context.args)
    wanted = serving.endpoint(*(given[name] for name in ("config", "models", "host", "port", "keys_file")))
    sent = Job(["serve", "-c", SERVE_FILE], {SERVE_FILE: serving.written(wanted)})
    _submit(sent, Way(address, allow_open, image), detach, as_json)


class Job(NamedTuple):
    """The command's words, and the files in its working folder that they name."""

    words: list[str]
    files: Mapping[str, str] = MappingProxyType({})


class Way(NamedTuple):
    """To which cluster, and from which image of its nodes the package comes; None: it is sent."""

    address: str
    allow_open: bool
    image: str | None


def parsed(command: Callable[..., None], words: Sequence[str]) -> dict[str, Any]:
    """The options that ``command`` would see. Ends as the command itself does where the words are wrong."""
    alone = typer.Typer(add_completion=False)
    alone.command()(command)
    return typer.main.get_command(alone).make_context(command.__name__, list(words)).params


def _submit(job: Job, way: Way, detach: bool, as_json: bool) -> None:
    from covseg_ray.engine import submit as engine

    flags = {"--json": as_json, "--allow-open-cluster": way.allow_open}
    words = [*job.words, *(flag for flag, given in flags.items() if given)]
    client = engine.connect(way.address, way.allow_open)
    job_id = engine.send(client, words, job.files, say, way.image)
    say(f"job {job_id}: covseg-ray jobs logs|stop|wait {job_id} --address {way.address}")
    if detach:
        typer.echo(json.dumps({"job": job_id}) if as_json else job_id)
        return
    raise typer.Exit(_follow(client, job_id, as_json))


def _follow(client: Client, job_id: str, as_json: bool) -> int:
    """The job's exit code. With ``as_json`` its log goes to standard error, and the document at its end to standard
    output."""
    from covseg_ray.engine import submit as engine

    log: list[str] = []

    def write(text: str) -> None:
        log.append(text)
        typer.echo(text, nl=False, err=as_json)

    try:
        code = engine.follow(client, job_id, write).exit_code or 0
    except KeyboardInterrupt:
        _ask(client, job_id)
        return EXIT_SIGINT
    documents = [line for line in "".join(log).splitlines() if line.startswith("{")]
    if as_json and documents:
        typer.echo(documents[-1])
    return code


def _ask(client: Client, job_id: str) -> None:
    """Whether to stop the job. Where nobody can answer it is left to run."""
    from covseg_ray.engine import submit as engine

    if sys.stdin.isatty() and typer.confirm(f"\nstop {job_id}? (otherwise it runs on)", err=True):
        say(f"job {job_id}: {engine.stop(client, job_id).status}")
    else:
        say(f"job {job_id} runs on")

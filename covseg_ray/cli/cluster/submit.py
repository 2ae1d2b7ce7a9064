"""``covseg-ray submit``: a command as a job on a Ray cluster, from where there is only the package and the token."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from covseg_ray.cli import bench
from covseg_ray.cli.options import AllowOpen, Json, say
from covseg_ray.cli.segment import segment
from covseg_ray.cli.serving.serve import serve
from covseg_ray.cli.training.evaluate import evaluate
from covseg_ray.cli.training.train import train
from covseg_ray.cli.training.tune import tune
from covseg_ray.errors import EXIT_SIGINT, UsageError

if TYPE_CHECKING:
    from covseg_ray.config.train import Job as TrainingJob
    from covseg_ray.engine.cluster.jobs import Client

JOB_FILE = "job.toml"
SERVE_FILE = "serve.yaml"
WITH_ITS_WORDS = {"allow_extra_args": True, "ignore_unknown_options": True}

app = typer.Typer(help="Run a command as a job on a Ray cluster.", no_args_is_help=True, rich_markup_mode=None)

Cluster = Annotated[str, typer.Option("--address", metavar="URL", help="The cluster's jobs API, as http://HEAD:8265.")]
Image = Annotated[
    str | None, typer.Option(metavar="REF", help="The image that the nodes run, with covseg-ray in it: it is not sent.")
]
Detach = Annotated[bool, typer.Option("--detach", help="Print the job's id and do not wait for its end.")]


class Job(NamedTuple):
    """The command's words, and the files in its working folder that they name."""

    words: list[str]
    files: Mapping[str, str] = MappingProxyType({})


class Way(NamedTuple):
    """To which cluster, and from which image of its nodes the package comes; None: it is sent."""

    address: str
    allow_open: bool
    image: str | None


def job(name: str) -> Callable[[Callable[[list[str]], Job]], None]:
    """Make a command of what turns its words into the job that is sent, whose text is the command's help."""

    def register(prepared: Callable[[list[str]], Job]) -> None:
        @app.command(name, help=prepared.__doc__, context_settings=WITH_ITS_WORDS)
        def command(
            context: typer.Context,
            address: Cluster,
            allow_open: AllowOpen = False,
            image: Image = None,
            detach: Detach = False,
            as_json: Json = False,
        ) -> None:
            _submit(prepared(context.args), Way(address, allow_open, image), detach, as_json)

    return register


@job("train")
def train_job(words: list[str]) -> Job:
    """What `covseg-ray train` takes: -c JOB.toml, --set KEY=VALUE. The job is checked here before anything is sent."""
    return with_file(["train"], checked(parsed(train, words)))


@job("tune")
def tune_job(words: list[str]) -> Job:
    """What `covseg-ray tune` takes: -c JOB.toml, --set KEY=VALUE. It is checked here before anything is sent."""
    from covseg_ray.engine.tuning import plan as trials

    wanted = checked(parsed(tune, words))
    trials.plan(wanted)
    return with_file(["tune"], wanted)


@job("evaluate")
def evaluate_job(words: list[str]) -> Job:
    """What `covseg-ray evaluate` takes: BUNDLE DATASET, --split, --labels, --workers, --report."""
    parsed(evaluate, words)
    return Job(["evaluate", *words])


@job("segment")
def segment_job(words: list[str]) -> Job:
    """What `covseg-ray segment` takes: SOURCE OUT --model BUNDLE, --write, --engine, --max-rejects, --actors."""
    parsed(segment, words)
    return Job(["segment", *words])


@job("bench")
def bench_job(words: list[str]) -> Job:
    """What `covseg-ray bench segment` or `covseg-ray bench train` takes: that word first, and no --plot."""
    what, *rest = words or [""]
    if what == "segment":
        parsed(bench.segment, rest)
        return Job(["bench", "segment", *rest])
    if what != "train":
        raise UsageError(f"submit bench {what}: unknown; give segment or train, and its words")
    given = parsed(bench.train, rest)
    counts = ["--steps", str(given["steps"]), "--rounds", str(given["rounds"])]
    return with_file(["bench", "train", *counts], checked(given))


@job("serve")
def serve_job(words: list[str]) -> Job:
    """What `covseg-ray serve` takes: -c SERVE.yaml, --model, --host, --port, --keys-file (a path on the nodes).
    The endpoint is there until the job is stopped."""
    from covseg_ray.config import serve as serving

    given = parsed(serve, words)
    wanted = serving.read_endpoint(*(given[name] for name in ("config", "models", "host", "port", "keys_file")))
    return Job(["serve", "-c", SERVE_FILE], {SERVE_FILE: wanted.to_yaml()})


def checked(given: Mapping[str, Any]) -> TrainingJob:
    """The job of a command's job file and overrides. Raises ConfigError."""
    from covseg_ray.config import train as config

    return config.load(given["job_file"], given["overrides"] or [])


def with_file(words: list[str], wanted: TrainingJob) -> Job:
    """The command with a job file of all that was given here, overrides among it."""
    from covseg_ray.config import train as config

    return Job([*words, "-c", JOB_FILE], {JOB_FILE: config.written(wanted)})


def parsed(command: Callable[..., None], words: Sequence[str]) -> dict[str, Any]:
    """The options that ``command`` would see. Ends as the command itself does where the words are wrong."""
    alone = typer.Typer(add_completion=False)
    alone.command()(command)
    return typer.main.get_command(alone).make_context(command.__name__, list(words)).params


def _submit(job: Job, way: Way, detach: bool, as_json: bool) -> None:
    from covseg_ray.engine.cluster import jobs as engine

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
    from covseg_ray.engine.cluster import jobs as engine

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
    from covseg_ray.engine.cluster import jobs as engine

    if sys.stdin.isatty() and typer.confirm(f"\nstop {job_id}? (otherwise it runs on)", err=True):
        say(f"job {job_id}: {engine.stop(client, job_id).status}")
    else:
        say(f"job {job_id} runs on")

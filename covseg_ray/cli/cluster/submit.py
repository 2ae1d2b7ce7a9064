"""``covseg-ray submit``: run a command as a job on a Ray cluster; only the package and the token are needed here."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from covseg_ray.cli.options import AllowOpen, Json, say
from covseg_ray.cli.segment import segment
from covseg_ray.cli.serving.serve import serve
from covseg_ray.cli.training.evaluate import evaluate
from covseg_ray.cli.training.train import train, tune
from covseg_ray.errors import EXIT_SIGINT

if TYPE_CHECKING:
    from covseg_ray.config.train import Job as TrainingJob
    from covseg_ray.engine.cluster.jobs import Client

JOB_FILE = "job.toml"
SERVE_FILE = "serve.yaml"
WITH_ITS_WORDS = {"allow_extra_args": True, "ignore_unknown_options": True}

app = typer.Typer(name="submit", help="Run a command as a job on a Ray cluster.")

Cluster = Annotated[str, typer.Option("--address", metavar="URL", help="Use this jobs API, as http://HEAD:8265.")]
Image = Annotated[
    str | None, typer.Option(metavar="REF", help="Run the covseg-ray of this image of the nodes; do not send it.")
]
Detach = Annotated[bool, typer.Option("--detach", help="Print the job's id and do not wait for it to end.")]


class Submission(NamedTuple):
    """The command's words, the files in its working folder that they name, and the bundles that it reads."""

    words: list[str]
    files: Mapping[str, str] = MappingProxyType({})
    models: tuple[str, ...] = ()


def job(name: str) -> Callable[[Callable[[list[str]], Submission]], None]:
    """Make a command of a function that turns its words into the job to send; its docstring is the command's help."""

    def register(prepared: Callable[[list[str]], Submission]) -> None:
        @app.command(name, help=prepared.__doc__, context_settings=WITH_ITS_WORDS)
        def command(
            context: typer.Context,
            address: Cluster,
            allow_open: AllowOpen = False,
            image: Image = None,
            detach: Detach = False,
            as_json: Json = False,
        ) -> None:
            submission = prepared(context.args)
            from covseg_ray.engine.cluster import jobs as engine

            flags = {"--json": as_json, "--allow-open-cluster": allow_open}
            words = [*submission.words, *(flag for flag, given in flags.items() if given)]
            client = engine.connect(address, allow_open)
            job_id = engine.send(client, words, submission.files, say, image, submission.models)
            say(f"job {job_id}: covseg-ray jobs logs|stop|wait {job_id} --address {address}")
            if not detach:
                raise typer.Exit(_follow(client, job_id, as_json))
            typer.echo(json.dumps({"job": job_id}) if as_json else job_id)

    return register


@job("train")
def train_job(words: list[str]) -> Submission:
    """Train on a cluster, with the options of `covseg-ray train`; the job is checked before it is sent."""
    return with_file(train, words)[0]


@job("tune")
def tune_job(words: list[str]) -> Submission:
    """Search on a cluster, with the options of `covseg-ray tune`; the job is checked before it is sent."""
    from covseg_ray.engine.tuning import plan as trials

    submission, wanted = with_file(tune, words)
    trials.plan(wanted)
    return submission


@job("evaluate")
def evaluate_job(words: list[str]) -> Submission:
    """Evaluate on a cluster, with the arguments and options of `covseg-ray evaluate`."""
    given = parsed(evaluate, words)
    return Submission(["evaluate", *words], models=(given["bundle"],))


@job("segment")
def segment_job(words: list[str]) -> Submission:
    """Segment on a cluster, with the arguments and options of `covseg-ray segment`."""
    given = parsed(segment, words)
    return Submission(["segment", *words], models=(given["model"],))


@job("serve")
def serve_job(words: list[str]) -> Submission:
    """Serve on a cluster until the job is stopped, with the options of `covseg-ray serve`; --keys-file is a path on the
    nodes."""
    from covseg_ray.config import serve as serving

    given = parsed(serve, words)
    wanted = serving.read_endpoint(*(given[name] for name in ("config", "models", "host", "port", "keys_file")))
    models = tuple(wanted.config.models.values())
    return Submission(["serve", "-c", SERVE_FILE], {SERVE_FILE: wanted.to_yaml()}, models)


def with_file(command: Callable[..., None], words: list[str]) -> tuple[Submission, TrainingJob]:
    """The command with a job file of all that was given here, overrides among it, and that job. Raises ConfigError."""
    from covseg_ray.config import train as config

    given = parsed(command, words)
    wanted = config.load(given["job_file"], given["overrides"] or [])
    files = {JOB_FILE: config.written(wanted)}
    return Submission([command.__name__, "-c", JOB_FILE], files, (wanted.model.start,)), wanted


def parsed(command: Callable[..., None], words: Sequence[str]) -> dict[str, Any]:
    """The options that ``command`` would see. Ends as the command itself does where the words are wrong."""
    alone = typer.Typer(add_completion=False)
    alone.command()(command)
    return typer.main.get_command(alone).make_context(command.__name__, list(words)).params


def _follow(client: Client, job_id: str, as_json: bool) -> int:
    """Print the job's log until it ends; returns its exit code. With ``as_json`` the log goes to standard error, and
    its last document to standard output."""
    from covseg_ray.engine.cluster import jobs as engine

    log: list[str] = []

    def write(text: str) -> None:
        log.append(text)
        typer.echo(text, nl=False, err=as_json)

    try:
        code = engine.follow(client, job_id, write).exit_code or 0
    except KeyboardInterrupt:
        _confirm_stop(client, job_id)
        return EXIT_SIGINT
    documents = [line for line in "".join(log).splitlines() if line.startswith("{")]
    if as_json and documents:
        typer.echo(documents[-1])
    return code


def _confirm_stop(client: Client, job_id: str) -> None:
    """Ask whether to stop the job. Where nobody can answer it keeps running."""
    from covseg_ray.engine.cluster import jobs as engine

    if sys.stdin.isatty() and typer.confirm(f"\nstop {job_id}? (otherwise it keeps running)", err=True):
        say(f"job {job_id}: {engine.stop(client, job_id).status}")
    else:
        say(f"job {job_id} keeps running")

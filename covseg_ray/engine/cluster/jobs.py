"""covseg-ray's commands as jobs on a Ray cluster, by its jobs API: sent, followed, listed, stopped."""

from __future__ import annotations

import asyncio
import logging
import math
import os
import secrets
import shlex
import time
import zipfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeAlias
from urllib.parse import urlsplit

import aiohttp
from ray.exceptions import AuthenticationError
from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient

from covseg_ray.engine.access import refuse_open
from covseg_ray.engine.bundle_io import shipped_models
from covseg_ray.errors import EXIT_SIGTERM, CovsegError, UsageError

SOURCE = Path(__file__).parents[2]
# Ray prefers these to a given address; here the given one counts.
ADDRESS_VARIABLES = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")
POLL_SECONDS = 1.0
STOP_SECONDS = 60  # that a stopped job is given to end in order
EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest that a zip knows: the same files make the same package

Say = Callable[[str], None]
Client: TypeAlias = JobSubmissionClient


@dataclass(frozen=True)
class JobState:
    """A job as the cluster reports it. ``started`` and ``ended`` are seconds since 1970; ``exit_code`` is the job's
    own once it has ended, 143 for one that was stopped."""

    id: str
    status: str
    command: str
    started: float | None
    ended: float | None
    exit_code: int | None


def connect(address: str, allow_open: bool = True) -> Client:
    """The jobs API at ``address``, a URL such as ``http://head:8265``. Without ``allow_open`` it must want a token."""
    if "://" not in address:
        raise UsageError(f"--address {address}: give the URL of the cluster's jobs API, as http://HEAD:8265")
    for name in ADDRESS_VARIABLES:
        os.environ.pop(name, None)
    for handler in logging.getLogger("ray").handlers:  # the client's own lines would stand beside ours
        handler.setLevel(logging.ERROR)
    with _as_one_line(address):
        client = Client(address)
    if not allow_open:
        refuse_open([urlsplit(address).hostname or ""], address)
    return client


def send(
    client: Client,
    words: Sequence[str],
    files: Mapping[str, str],
    say: Say,
    image: str | None = None,
    models: Collection[str] = (),
) -> str:
    """Start ``covseg-ray`` with ``words`` on the cluster, this package and ``files`` in its working folder; its id.

    Of the package's models those go along that ``models``, the bundles that the job names, holds by name. A package
    that the cluster has already is not sent again, nor is it where the nodes run ``image``, which has it. Credentials
    are not part of it: the job finds those of the nodes.
    """
    job_id = f"{words[0]}-{secrets.token_hex(4)}"
    with TemporaryDirectory(prefix="covseg-ray-submit-") as folder:
        package = Path(folder) / "package.zip"
        contents: dict[str, bytes | str] = {**({} if image else package_files(models)), **files}
        with zipfile.ZipFile(package, "w") as archive:
            for name, data in sorted(contents.items()):
                archive.writestr(zipfile.ZipInfo(name, EPOCH), data, zipfile.ZIP_DEFLATED)
        say(f"sending {package.stat().st_size / 1e6:.2f} MB to {client.get_address()}")
        with _as_one_line(client.get_address()):
            client.submit_job(
                entrypoint=shlex.join(["python", "-m", "covseg_ray", *words, "--address", "auto"]),
                submission_id=job_id,
                metadata={"image": image} if image else {},
                runtime_env={"working_dir": str(package), "env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_SECONDS)}},
            )
    return job_id


def follow(client: Client, job_id: str, write: Say) -> JobState:
    """Write the job's log as it grows, to its end. Reconnects when the connection is lost; nothing is written twice."""
    written = 0
    while True:
        written = asyncio.run(_tail(client, job_id, written, write))
        found = state(client, job_id)
        if found.exit_code is not None:
            return found
        time.sleep(POLL_SECONDS)


def wait(client: Client, job_id: str, seconds: float = math.inf) -> JobState:
    """The job at its end, or as it is after so many ``seconds``."""
    deadline = time.monotonic() + seconds
    while (found := state(client, job_id)).exit_code is None and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
    return found


def state(client: Client, job_id: str) -> JobState:
    with _as_one_line(client.get_address(), job_id):
        return _read(client.get_job_info(job_id))


def states(client: Client) -> list[JobState]:
    """Every submitted job, the latest first."""
    with _as_one_line(client.get_address()):
        found = [_read(details) for details in client.list_jobs() if details.submission_id]
    return sorted(found, key=lambda job: job.started or 0, reverse=True)


def log(client: Client, job_id: str) -> str:
    with _as_one_line(client.get_address(), job_id):
        return client.get_job_logs(job_id)


def stop(client: Client, job_id: str) -> JobState:
    """Have the job ended by SIGTERM, as its own machine would, and wait for its end."""
    with _as_one_line(client.get_address(), job_id):
        client.stop_job(job_id)
    return wait(client, job_id)


async def _tail(client: Client, job_id: str, written: int, write: Say) -> int:
    """Write the log from character ``written`` on; returns where it ends. Each connection sends it from the start."""
    at = 0
    with suppress(RuntimeError, aiohttp.ClientError):  # the connection broke; whether the job is there is asked next
        async for text in client.tail_job_logs(job_id):
            fresh = text[max(0, written - at) :]
            at += len(text)
            if fresh:
                write(fresh)
                written = at
    return written


def package_files(models: Collection[str]) -> dict[str, bytes]:
    """This package's files, as a job's working folder has them; of its models only those of ``models``."""
    left_out = [folder for name, folder in shipped_models().items() if name not in models]
    return {
        f"covseg_ray/{path.relative_to(SOURCE).as_posix()}": path.read_bytes()
        for path in SOURCE.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and not any(each in path.parents for each in left_out)
    }


def _read(details: JobDetails) -> JobState:
    code = None
    if details.status.is_terminal():
        own = details.driver_exit_code
        code = {JobStatus.SUCCEEDED: 0, JobStatus.STOPPED: EXIT_SIGTERM}.get(details.status, own or 1)
    started, ended = (None if at is None else at / 1000 for at in (details.start_time, details.end_time))
    command = details.entrypoint.removeprefix("python -m ").removesuffix(" --address auto")
    return JobState(str(details.submission_id), str(details.status.value).lower(), command, started, ended, code)


@contextmanager
def _as_one_line(address: str, job_id: str | None = None) -> Iterator[None]:
    """Raise errors of Ray's client as one line that says what to do."""
    try:
        yield
    except AuthenticationError:
        help_line = "set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH"
        raise CovsegError(f"{address}: the cluster wants its token: {help_line}") from None
    except OSError:  # ConnectionError, and what its HTTP client raises
        raise CovsegError(f"{address}: no Ray cluster answers there; give the URL of its dashboard") from None
    except RuntimeError as error:
        if job_id and "status code 404" in str(error):
            raise UsageError(f"{job_id}: the cluster has no job of that id; covseg-ray jobs list shows them") from None
        raise CovsegError(f"{address}: {error}") from None

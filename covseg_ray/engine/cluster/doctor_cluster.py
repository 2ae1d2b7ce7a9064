"""A Ray cluster from a shell that has only this package and the token: what its dashboard answers here, and what a job
that is sent there finds on its nodes."""

from __future__ import annotations

import http.client
import importlib.metadata
import json
import urllib.error
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

from ray._private.authentication.http_token_authentication import get_auth_headers_if_auth_enabled
from ray.exceptions import AuthenticationError

from covseg_ray.engine.access import fetch, is_loopback
from covseg_ray.engine.cluster import doctor_nodes
from covseg_ray.engine.cluster import jobs as submit
from covseg_ray.engine.cluster.doctor import Finding
from covseg_ray.errors import CovsegError, UsageError, first_line

THIS_CLUSTER = "auto"
PROBE_SECONDS = 5.0
JOB_SECONDS = 300.0  # the start of the job, and twice what its nodes are given to answer
RAYS_OWN = "Running entrypoint for job"
REFUSED = (http.HTTPStatus.UNAUTHORIZED, http.HTTPStatus.FORBIDDEN)
ADDRESS_ADVICE = "give the dashboard's address, as http://127.0.0.1:8265, and see that the cluster is up"
TOKEN_ADVICE = "set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH to the cluster's token"


def examine(address: str, storage: str | None, say: Callable[[str], None]) -> list[Finding]:
    """Every check of the cluster at ``address``, a URL, or ``auto``: the one that this process is on."""
    if storage and "://" not in storage and not Path(storage).is_absolute():
        raise UsageError(f"--storage {storage}: a cluster's nodes need a full path, or s3://BUCKET/PREFIX")
    if address == THIS_CLUSTER:
        return doctor_nodes.examine(storage)
    answer = cluster(address)
    if answer.status == "fail":
        return [answer]
    return [answer, token(address), *by_job(address, storage, say)]


def cluster(address: str) -> Finding:
    """Ask the dashboard at ``address`` which Ray it runs; the cluster's must be the version that is installed here."""
    url = address.rstrip("/")
    if not url.startswith(("http://", "https://")):
        return Finding("cluster", "fail", f"{address} is no http:// address", ADDRESS_ADVICE)
    try:
        answer = fetch(f"{url}/api/version", PROBE_SECONDS, get_auth_headers_if_auth_enabled({}))
        theirs = str(json.loads(answer)["ray_version"])
    except AuthenticationError as error:
        return Finding("cluster", "fail", str(error).split(". ")[0], TOKEN_ADVICE)
    except urllib.error.HTTPError as error:
        if error.code in REFUSED:
            wants = "asks for a token" if error.code == http.HTTPStatus.UNAUTHORIZED else "refuses this token"
            return Finding("cluster", "fail", f"{url} {wants}", TOKEN_ADVICE)
        return Finding("cluster", "fail", f"{url} answers {error.code}", ADDRESS_ADVICE)
    except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError) as error:
        return Finding("cluster", "fail", f"{url}: {first_line(error)}", ADDRESS_ADVICE)
    ours = importlib.metadata.version("ray")
    if theirs == ours:
        return Finding("cluster", "ok", f"{url} runs Ray {theirs}, as does this machine")
    return Finding(
        "cluster", "fail", f"{url} runs Ray {theirs}, here is {ours}", "use the same Ray version on both sides"
    )


def token(address: str) -> Finding:
    """Ask the jobs API without a token. It must refuse: whoever may send a job may run any command as the cluster."""
    url = address.rstrip("/")
    try:
        fetch(f"{url}/api/jobs/", PROBE_SECONDS)
    except urllib.error.HTTPError as error:
        if error.code in REFUSED:
            return Finding("token", "ok", f"a request without it is refused ({error.code})")
        return Finding("token", "fail", f"{url} answers {error.code} without a token", ADDRESS_ADVICE)
    except (OSError, http.client.HTTPException) as error:
        return Finding("token", "fail", f"{url}: {first_line(error)}", ADDRESS_ADVICE)
    return Finding(
        "token",
        "warn" if is_loopback(urlsplit(url).hostname or "") else "fail",
        f"{url} takes jobs without a token",
        doctor_nodes.OPEN_ADVICE,
    )


def by_job(address: str, storage: str | None, say: Callable[[str], None]) -> list[Finding]:
    """What this command finds on the cluster itself, as a job there."""
    words = ["doctor", "--json", *(["--storage", storage] if storage else [])]
    try:
        client = submit.connect(address, allow_open=True)
        job_id = submit.send(client, words, {}, say)
        say(f"job {job_id}: asking every node, each has {doctor_nodes.ANSWER_SECONDS:.0f} s to answer")
        job = submit.wait(client, job_id, JOB_SECONDS)
        reports = [line for line in submit.log(client, job_id).splitlines() if line.startswith('{"findings"')]
        if reports:
            return [Finding(**each) for each in json.loads(reports[-1])["findings"]]
        if job.exit_code is None:
            with suppress(RuntimeError, OSError):  # what requests raises is an OSError
                client.stop_job(job_id)
            why = f"{job_id} is still {job.status} after {JOB_SECONDS:.0f} s, and is stopped"
        else:
            last = _last_words(client.get_job_info(job_id).message)
            why = f"{job_id} ended with exit code {job.exit_code} and without findings: {last}"
    except CovsegError as error:
        return [Finding("job", "fail", str(error))]
    except (RuntimeError, OSError) as error:
        return [Finding("job", "fail", first_line(error), "see that the cluster's head is up")]
    return [Finding("job", "fail", why, f"covseg-ray jobs logs {job_id} --address {address}")]


def _last_words(message: str | None) -> str:
    """The last line of what Ray tells of a job that failed: the end of its log, where Ray may write last of all."""
    lines = [line.strip() for line in (message or "").splitlines()]
    own = [line for line in lines if line and not line.startswith(RAYS_OWN)]
    return own[-1] if own else "it left no log"

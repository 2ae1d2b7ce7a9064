"""Requests/s and latency of the endpoint, of LitServe and of plain FastAPI, in turn, at 1, 16 and 64 clients.

    python benchmarks/serve_peers.py --model BUNDLE [--rounds 5] [--seconds 10] [--clients 1,16,64]

Ray's HAProxy listens on every interface. Where network namespaces can be had (Linux, root, iproute2) all of this runs
in one of its own, which has the loopback alone; elsewhere that mode is left out.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from functools import partial
from importlib.util import find_spec
from itertools import product
from pathlib import Path

from rounds import CannotError, FailedError, Figures, Measured
from services import HAPROXY, command, load, running

from covseg_ray.radiograph.masks import encode_png
from covseg_ray.radiograph.phantom import make_phantom

OURS = {"covseg-ray": "covseg-ray serve", "covseg-ray-haproxy": "covseg-ray serve, HAProxy"}
OTHERS = {"plain": "plain FastAPI", "litserve": "LitServe"}
WARMING_SECONDS = 5
AIM = 1.0
CUT_OFF = "COVSEG_BENCH_CUT_OFF"
NAMESPACE = ("unshare", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh")


def is_cut_off() -> bool:
    """Whether this process has seen the loopback alone since ``cut_off``."""
    return os.environ.get(CUT_OFF) == "1"


def cut_off(words: list[str]) -> None:
    """Go on as the same command in a network namespace of its own, where there can be one."""
    possible = shutil.which("unshare") and shutil.which("ip")
    if possible and subprocess.run([*NAMESPACE, "true"], capture_output=True, check=False).returncode == 0:
        os.environ[CUT_OFF] = "1"
        os.execvp(NAMESPACE[0], [*NAMESPACE, sys.executable, *words])


def answers(service: str, model: str, clients: list[int], seconds: float) -> dict[int, Figures]:
    """The service's figures by the number of clients; a request that failed is a failure of the whole."""
    if service == "litserve" and not find_spec("litserve"):
        raise CannotError("LitServe is not installed; make bench installs it")
    if service == "covseg-ray-haproxy" and not is_cut_off():
        raise CannotError("no network namespace can be had, and it listens on every interface")
    film, cores = encode_png(make_phantom(0, 0, 256).image), os.cpu_count() or 1
    environment = HAPROXY if service == "covseg-ray-haproxy" else {}
    sent = {"files": {"film": film}} if service == "litserve" else {"content": film}
    try:
        with (
            tempfile.TemporaryDirectory() as folder,
            running(command(service, model, cores, Path(folder)), environment),
        ):
            load(sent, cores, WARMING_SECONDS)
            found = {count: load(sent, count, seconds) for count in clients}
    except AssertionError as error:
        raise FailedError(str(error)) from error
    if failed := sum(each["failed"] for each in found.values()):
        raise FailedError(f"{failed:.0f} requests were not answered with 200")
    return found


def one_round(measured: Measured, number: int, given: argparse.Namespace) -> None:
    clients = [int(each) for each in given.clients.split(",")]
    for service, name in list((OURS | OTHERS).items())[:: 1 if number % 2 else -1]:
        found = measured.attempt(name, partial(answers, service, given.model, clients, given.seconds))
        for count, figures in (found or {}).items():
            kept = {key: figures[key] for key in ("per_second", "p50_ms", "p99_ms")}
            measured.keep(f"{name}, clients: {count}", number, kept)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--clients", default="1,16,64")
    given = parser.parse_args()
    if not is_cut_off():
        cut_off(sys.argv)
    measured = Measured()
    for number in range(1, given.rounds + 1):
        one_round(measured, number, given)
    for count, ours, other in product(given.clients.split(","), OURS.values(), OTHERS.values()):
        measured.ratio(f"{ours}, clients: {count}", f"{other}, clients: {count}", "per_second", AIM)
    sys.exit(bool(measured.broken))


if __name__ == "__main__":
    main()

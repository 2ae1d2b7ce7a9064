"""An endpoint whose processes are killed, that is asked for too much, and whose model changes under load."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlparse

import httpx2
import numpy as np
import pytest
from near_ties import undecided_on_phantoms
from runs import LOOPBACK, Command, descendants, listening, send
from servers import INGRESS, MODEL, Load, serving

from covseg_ray.engine.bundle_io import save_bundle
from covseg_ray.radiograph.masks import encode_png
from covseg_ray.radiograph.phantom import make_phantom
from covseg_ray.segmentation.network.bundle import Bundle
from covseg_ray.service.client import Client

pytestmark = pytest.mark.timeout(900)
SIDE = 256  # a model slow enough to be what limits: else the load generator and the proxy share the waiting
PLACES = 16 + 2 * 2  # films that may wait, and two for each replica
PNG = encode_png(make_phantom(1, 0, 150).image)
SETTINGS = """
http_options: {{host: 127.0.0.1}}
applications:
  - name: covseg-ray
    args:
      models: {{default: {model}}}
      replicas: [{fewest}, {most}]
      waiting: {waiting}
      upscale_seconds: 0.5
      downscale_seconds: 3
      body_seconds: 5
"""


def write_settings(path: Path, model: Path, fewest: int = 1, most: int = 2, waiting: int = 16) -> Path:
    path.write_text(SETTINGS.format(model=model, fewest=fewest, most=most, waiting=waiting))
    return path


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Bundle, Bundle]:
    """Two models of different weights and different squares."""
    folder, made = tmp_path_factory.mktemp("bundles"), []
    for name, side in (("old", SIDE), ("new", SIDE + 32)):
        made.append(undecided_on_phantoms(side))
        save_bundle(str(folder / name), made[-1])
    return folder / "old", folder / "new", made[0], made[1]


@pytest.fixture(scope="module")
def endpoint(
    bundles: tuple[Path, Path, Bundle, Bundle], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Command, str, Path, Path]]:
    """A running endpoint of the old model, from a copy of its bundle and a file that may both be changed."""
    folder = tmp_path_factory.mktemp("endpoint")
    shutil.copytree(bundles[0], folder / "model")
    settings = write_settings(folder / "serve.yaml", folder / "model")
    with serving(["-c", str(settings)], folder) as (command, url):
        yield command, url, folder / "model", settings


def kill_one(command: Command, begin: str) -> int:
    """SIGKILL a replica, and give its process id."""
    found = command.workers(begin)
    assert found, f"no {begin}"
    send(found[-1], signal.SIGKILL)
    return found[-1]


def await_replica(command: Command, begin: str, gone: int, timeout: float = 60) -> None:
    deadline = time.monotonic() + timeout
    while not set(command.workers(begin)) - {gone}:
        assert time.monotonic() < deadline, "no new replica came"
        time.sleep(0.1)


def test_nothing_listens_beyond_loopback(endpoint: tuple[Command, str, Path, Path]) -> None:
    command, _, _, _ = endpoint
    found = listening([command.process.pid, *descendants(command.process.pid)])
    assert "0100007F" in found
    assert found <= LOOPBACK


def kill_models(endpoint: tuple[Command, str, Path, Path], kills: int) -> None:
    command, url, _, _ = endpoint
    with Load(url, PNG, clients=4) as load:
        load.await_answers(5)
        for _ in range(kills):
            gone = kill_one(command, MODEL)
            await_replica(command, MODEL, gone)
            load.await_answers(5)
    assert set(load.answers) == {"200"}, (load.answers, load.refusals)


def test_killed_model_replicas_fail_no_request(endpoint: tuple[Command, str, Path, Path]) -> None:
    kill_models(endpoint, 2)


@pytest.mark.drill
def test_ten_killed_model_replicas_fail_no_request(endpoint: tuple[Command, str, Path, Path]) -> None:
    kill_models(endpoint, 10)


def test_a_killed_ingress_is_not_seen_through_the_client(endpoint: tuple[Command, str, Path, Path]) -> None:
    command, url, _, _ = endpoint
    with Client(url) as client:
        first = client.segment(PNG)
        gone = kill_one(command, INGRESS)
        films = [client.segment(PNG) for _ in range(10)]
    await_replica(command, INGRESS, gone)
    assert [film.infection_fraction for film in films] == [first.infection_fraction] * 10


def test_too_much_is_refused_and_the_rest_answered_in_time(
    endpoint: tuple[Command, str, Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    _, url, _, _ = endpoint
    with Load(url, PNG, clients=4) as usual:
        usual.await_answers(40)
    with Load(url, PNG, clients=64) as load:
        load.await_answers(100)
        load.await_answers(20, "503")
    assert set(load.answers) == {"200", "503"}, load.answers
    assert load.without_retry_after == 0
    with capsys.disabled():
        print(f"\n{load.answers.total() / load.answers['200']:.1f} requests sent for each that was answered")
    # Little's law: as many as may be under way, over what is answered in a second, is the mean of their times.
    mean = PLACES / (len(load.seconds) / load.elapsed)
    assert np.mean(load.seconds) < 1.2 * mean
    assert np.percentile(load.seconds, 99) < 3 * mean
    time.sleep(5)
    with Load(url, PNG, clients=1) as after:
        after.await_answers(10)
    assert set(after.answers) == {"200"}
    assert np.median(after.seconds) < 2 * np.percentile(usual.seconds, 90)


def test_replicas_come_and_go_with_the_load(endpoint: tuple[Command, str, Path, Path]) -> None:
    command, url, _, _ = endpoint
    begin = time.monotonic()
    while len(command.workers(MODEL)) > 1:  # an earlier test's
        assert time.monotonic() < begin + 120
        time.sleep(0.1)
    begin = time.monotonic()
    with Load(url, PNG, clients=12) as load:
        while len(command.workers(MODEL)) < 2:
            assert time.monotonic() < begin + 120
            time.sleep(0.1)
        grown = time.monotonic() - begin
        load.await_answers(20)
    begin = time.monotonic()
    while len(command.workers(MODEL)) > 1:
        assert time.monotonic() < begin + 120
        time.sleep(0.1)
    shrunk = time.monotonic() - begin
    assert set(load.answers) <= {"200"}, (load.answers, load.refusals)
    print(f"1 -> 2 replicas in {grown:.1f} s, 2 -> 1 in {shrunk:.1f} s")


def test_slow_senders_are_sent_away_and_gone_clients_leave_room(endpoint: tuple[Command, str, Path, Path]) -> None:
    _, url, _, _ = endpoint
    host, port = urlparse(url).hostname, urlparse(url).port
    head = f"POST /v1/segment HTTP/1.1\r\nHost: x\r\nContent-Length: {len(PNG)}\r\n\r\n".encode()
    for _ in range(40):  # more than may wait at a model
        with socket.create_connection((host, port)) as gone:
            gone.sendall(head + PNG)
    with socket.create_connection((host, port)) as slow:
        slow.sendall(head + PNG[:100])
        slow.settimeout(30)
        assert slow.recv(100).startswith(b"HTTP/1.1 408 ")
    with httpx2.Client(base_url=url, timeout=60, trust_env=False) as client:
        deadline = time.monotonic() + 20
        while (answer := client.post("/v1/segment", content=PNG)).status_code == 503:
            assert time.monotonic() < deadline
            time.sleep(0.5)
        assert answer.status_code == 200


def test_a_bad_bundle_is_refused_and_a_new_one_rolled_in_without_a_failed_request(
    endpoint: tuple[Command, str, Path, Path], bundles: tuple[Path, Path, Bundle, Bundle]
) -> None:
    command, url, model, settings = endpoint
    _, new, old_bundle, new_bundle = bundles
    with Load(url, PNG, clients=3) as load:
        write_settings(settings, model.parent / "nowhere")
        os.kill(command.process.pid, signal.SIGHUP)
        await_line(command, "the previous endpoint stays in service")
        load.await_answers(10)
        assert set(load.models) == {old_bundle.model_id}
        shutil.copytree(new, model, dirs_exist_ok=True)
        write_settings(settings, model)
        os.kill(command.process.pid, signal.SIGHUP)
        await_line(command, "now serving")
        load.await_answers(10)
    assert set(load.answers) == {"200"}, (load.answers, load.refusals)
    assert set(load.models) == {old_bundle.model_id, new_bundle.model_id}
    last = httpx2.post(f"{url}/v1/segment", content=PNG, timeout=60, trust_env=False).json()
    assert last["model"]["model_id"] == new_bundle.model_id
    infected = new_bundle_mask(new_bundle)
    assert last["infection_fraction"] == infected.mean()


def new_bundle_mask(bundle: Bundle) -> np.ndarray:
    from PIL import Image

    from covseg_ray.segmentation.inference.predictor import BatchPredictor

    side = bundle.spec.input_size
    film = Image.fromarray(make_phantom(1, 0, 150).image).resize((side, side), Image.Resampling.BILINEAR)
    found = BatchPredictor(bundle).predict(np.asarray(film)[None])[0] == bundle.spec.infection
    places = ((np.arange(150) + 0.5) * side / 150).astype(int)
    return found[np.ix_(places, places)]


def await_line(command: Command, text: str, timeout: float = 120) -> None:
    deadline = time.monotonic() + timeout
    while text not in command.errors.read_text():
        assert time.monotonic() < deadline, command.errors.read_text()
        time.sleep(0.1)


def test_sigterm_ends_it_in_order(bundles: tuple[Path, Path, Bundle, Bundle], tmp_path: Path) -> None:
    with serving(["--model", str(bundles[0])], tmp_path) as (command, _):
        code, errors = command.interrupt(signal.SIGTERM)
    assert code == 143, errors
    assert "Traceback" not in errors

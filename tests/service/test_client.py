from __future__ import annotations

import hashlib
import socket
import ssl
import statistics
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime, formatdate
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import numpy as np
import pytest
import scripted_service as scripted
from certificates import write_certificate
from pydantic import ValidationError
from scripted_service import Script, Turn, error, proxy_error, serving

from covseg_ray.errors import CovsegError, StorageError, UsageError
from covseg_ray.radiograph.film import Rejected
from covseg_ray.radiograph.masks import decode_png1
from covseg_ray.service.client import Client
from covseg_ray.service.retries import Response, retry_delay
from covseg_ray.service.schema import Milliseconds, ModelInfo, ModelName, PngFilm

FILM = b"\x89PNG a film"
KEY = "secret-key-of-a-test"
SLACK = 10.0  # seconds by which this machine may be late


@pytest.fixture(autouse=True)
def _no_proxy_and_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "COVSEG_API_KEY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def script() -> Iterator[Script]:
    with serving(Script()) as running:
        yield running


@pytest.fixture
def client(script: Script) -> Iterator[Client]:
    with Client(script.url, timeout=30) as running:
        yield running


def segmented(client: Client, data: bytes = FILM) -> PngFilm:
    film = client.segment(data)
    assert isinstance(film, PngFilm)
    return film


def test_a_film_comes_back_with_everything_that_the_service_found(script: Script, client: Client) -> None:
    film = segmented(client)
    infected = hashlib.sha256(FILM).digest()[0] % 81
    mask_HW = np.zeros((10, 8), np.uint8)
    mask_HW.flat[:infected] = 1
    assert np.array_equal(decode_png1(film.mask.data), mask_HW)
    assert film.infection_fraction == infected / 80
    assert (film.frontal, film.frontal_level) == (0.25, 0.005)
    assert film.input_sha256 == hashlib.sha256(FILM).hexdigest()
    assert (film.height, film.width, film.lung_fraction, film.severity, film.picture) == (10, 8, None, None, None)
    assert film.contours == (((0, 0), (8, 0), (8, 1)),)
    assert film.model == ModelName(name="default", model_id="0123456789abcdef")
    assert (film.dicom, film.preprocess_version) == (False, "1")
    assert film.timing_ms == Milliseconds(decode=1.5, predict=95.0, render=3.0)
    with pytest.raises(ValidationError, match="frozen"):
        film.height = 3  # type: ignore[misc]
    (request,) = script.films
    assert (request.method, request.body, request.query) == ("POST", FILM, {})
    assert "authorization" not in request.headers
    assert "transfer-encoding" not in request.headers


def test_what_is_asked_for_goes_into_the_query(script: Script, client: Client) -> None:
    film = client.segment(FILM, model="a b&c", picture=True)
    assert isinstance(film, PngFilm)
    assert film.picture == b"picture of " + FILM
    mask = client.mask(FILM)
    assert isinstance(mask, bytes)
    assert np.array_equal(decode_png1(mask), decode_png1(segmented(client).mask.data))
    assert client.overlay(FILM, model="other") == b"overlay of " + FILM
    assert client.seg(b"DICM film") == b"seg of DICM film"
    assert client.seg(FILM) == Rejected("no-dicom-seg", "this is no-dicom-seg")
    assert [(request.headers["accept"], request.query) for request in script.films] == [
        ("application/json", {"model": ["a b&c"], "picture": ["true"]}),
        ("image/png", {"view": ["mask"]}),
        ("application/json", {}),
        ("image/png", {"model": ["other"], "view": ["overlay"]}),
        *[("application/dicom", {})] * 2,
    ]


def test_films_unlike_a_chest_film_can_be_rejected(script: Script, client: Client) -> None:
    script.turns = [error(422, "not-frontal")]
    assert client.segment(FILM, reject_unlike=True) == Rejected("not-frontal", "this is not-frontal")
    assert script.films[0].query == {"unlike": ["reject"]}


def test_the_models_of_a_service(client: Client) -> None:
    (model,) = client.models()
    assert model == ModelInfo(**{**scripted.MODEL, "classes": ("background", "infection")})


def test_a_service_below_a_path(script: Script) -> None:
    with Client(f"{script.url}/below/", timeout=30) as client:
        segmented(client)
    assert script.seen[0].path == "/below/v1/segment"


def test_a_wait_that_is_asked_for_is_kept(script: Script, client: Client) -> None:
    script.turns = [error(503, "overloaded", {"Retry-After": "1"}), error(503, "overloaded", {"Retry-After": "0"})]
    segmented(client)
    first, second, third = script.films
    assert second.at - first.at >= 1
    assert first.body == second.body == third.body == FILM
    assert len({request.headers["x-request-id"] for request in script.films}) == 1


@pytest.mark.parametrize(
    "turn",
    [
        *(proxy_error(status) for status in (408, 429, 500, 502, 503, 504)),
        *(error(status, "later") for status in (408, 429, 502, 503, 504)),
        *(scripted.reset_half_way, scripted.no_answer, scripted.garbage),
    ],
)
def test_what_may_pass_is_tried_again(script: Script, client: Client, turn: Turn) -> None:
    script.turns = [turn, turn]
    assert segmented(client).input_sha256 == hashlib.sha256(FILM).hexdigest()
    assert [request.body for request in script.films] == [FILM] * 3


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 406, 301])
def test_what_would_come_out_the_same_again_is_asked_once(script: Script, client: Client, status: int) -> None:
    for turn in (error(status, "wrong"), proxy_error(status)):
        script.turns = [turn]
        with pytest.raises(UsageError) as caught:
            client.segment(FILM)
        assert script.url in str(caught.value)
    assert len(script.films) == 2


def test_a_failure_of_the_service_itself_is_reported_with_its_words(script: Script, client: Client) -> None:
    script.turns = [error(500, "failed")]
    with pytest.raises(CovsegError, match=r"HTTP 500 failed \(this is failed\)") as caught:
        client.segment(FILM)
    assert caught.value.exit_code == 1
    (request,) = script.films
    assert str(caught.value).endswith(f"for request {request.headers['x-request-id']}")


@pytest.mark.parametrize(("status", "reason"), [(413, "too-large"), (415, "not-an-image"), (422, "truncated")])
def test_a_rejected_film_is_a_result(script: Script, client: Client, status: int, reason: str) -> None:
    script.default = error(status, reason)
    for ask in (client.segment, client.mask, client.overlay, client.seg):
        assert ask(FILM) == Rejected(reason, f"this is {reason}")
    assert len(script.films) == 4


def test_a_proxy_that_takes_no_such_body_has_rejected_the_film(script: Script, client: Client) -> None:
    script.turns = [proxy_error(413)]
    assert client.segment(FILM) == Rejected("too-large", f"the service takes no file of {len(FILM)} bytes")


@pytest.mark.parametrize("body", [b"{}", b"[]", b"null", b'{"status": "ok"}', b"{", b"\xff", b'{"height": 1}'])
def test_json_of_another_kind_is_one_line_of_error(script: Script, client: Client, body: bytes) -> None:
    script.turns = [lambda handler, _: handler.answer(200, "application/json", body)]
    with pytest.raises(CovsegError, match="cannot read"):
        client.segment(FILM)


def test_a_page_of_another_server_is_no_mask(script: Script, client: Client) -> None:
    script.default = lambda handler, _: handler.answer(200, "text/html", b"<h1>Log in</h1>")
    for ask in (client.segment, client.mask):
        with pytest.raises(UsageError, match=r"HTTP 200 \(text/html\) is not a response of covseg-ray; check the URL"):
            ask(FILM)


@pytest.mark.parametrize(
    ("turn", "size", "last"),
    [
        (scripted.silent, 100, "1 try in 1 of 1 s; last problem: .*timed out"),
        (scripted.dribble, 100, "1 try in 1 of 1 s; last problem: .*not finished in time"),
        (scripted.deaf, 64 << 20, "1 try in 1 of 1 s; last problem: .*(timed out|not finished in time)"),
        (error(503, "overloaded"), 100, r"in [01] of 1 s; last problem: HTTP 503 overloaded \(this is overloaded\)"),
        (proxy_error(502), 100, r"in [01] of 1 s; last problem: HTTP 502 \(text/html\)"),
        (scripted.no_answer, 100, "in [01] of 1 s; last problem: .*(reset|disconnected)"),
    ],
    ids=["silent", "dribble", "deaf", "overloaded", "proxy", "reset"],
)
def test_a_film_has_so_much_time_and_no_more(script: Script, client: Client, turn: Turn, size: int, last: str) -> None:
    script.default = turn
    began = time.monotonic()
    with pytest.raises(StorageError, match=last) as caught:
        client.segment(bytes(size), timeout=1)
    assert time.monotonic() - began < 1 + SLACK
    assert caught.value.exit_code == 4
    assert "\n" not in str(caught.value)


def test_a_try_cut_by_the_time_does_not_hide_why_the_one_before_failed(script: Script, client: Client) -> None:
    script.turns = [scripted.no_answer]
    script.default = scripted.silent
    with pytest.raises(StorageError, match=r"2 tries in 1 of 1 s; last problem: .*(reset|disconnected)"):
        client.segment(FILM, timeout=1)


def test_a_wait_longer_than_the_time_left_is_not_begun(script: Script, client: Client) -> None:
    script.default = error(503, "overloaded", {"Retry-After": "50"})
    began = time.monotonic()
    with pytest.raises(StorageError, match="after 1 try in 0 of 30 s"):
        client.segment(FILM)
    assert time.monotonic() - began < SLACK


def test_no_time_at_all_is_an_error_without_a_request(script: Script, client: Client) -> None:
    with pytest.raises(StorageError, match="no time was left to send a request"):
        client.segment(FILM, timeout=-1)
    assert script.films == []


def test_nobody_there_is_reported_with_the_address() -> None:
    with socket.socket() as held:  # bound, not listening: nobody else gets the port
        held.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{held.getsockname()[1]}"
        with Client(url, timeout=1) as client, pytest.raises(StorageError, match="refused") as caught:
            client.models()
    assert str(caught.value).startswith(f"{url}/v1/model: no response after ")


def test_a_server_that_comes_up_late_is_found() -> None:
    with serving(Script(), late_seconds=0.7) as late, Client(late.url, timeout=60) as client:
        segmented(client)
    assert len(late.films) == 1


def test_the_key_is_sent_and_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(Script(key=KEY)) as script:
        monkeypatch.setenv("COVSEG_API_KEY", KEY)
        with Client(script.url, timeout=30) as from_environment:
            segmented(from_environment)
        monkeypatch.setenv("COVSEG_API_KEY", "another")
        with Client(script.url, KEY, timeout=30) as given:
            segmented(given)
            script.key = "changed"
            turns = [error(status, "wrong") for status in (400, 404, 500, 503)]
            for turn in [None, *turns, scripted.no_answer]:
                if turn:
                    script.key, script.default = KEY, turn
                with pytest.raises(CovsegError) as caught:
                    given.segment(FILM, timeout=0.5)
                assert KEY not in "".join(traceback.format_exception(caught.value))
            assert KEY not in repr(given) + repr(vars(given)["_http"])


@pytest.mark.parametrize(("key", "words"), [(None, "a key is needed"), ("wrong", "the key was not accepted")])
def test_without_the_right_key_the_error_says_where_one_goes(key: str | None, words: str) -> None:
    with serving(Script(key=KEY)) as script, Client(script.url, key, timeout=30) as client:
        for ask in (client.models, lambda: client.segment(FILM)):
            with pytest.raises(UsageError, match=f"{words}; give it in a file"):
                ask()
    assert len(script.seen) == 2


@pytest.mark.parametrize("key", ["two words", "line\nline", "schlüssel", "tab\tkey", "nul\0"])
def test_a_key_that_no_header_can_carry_is_refused_without_being_shown(key: str) -> None:
    with pytest.raises(UsageError) as caught:
        Client("http://127.0.0.1:1", key)
    assert key not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize(
    "url",
    [
        *("", "127.0.0.1:8000", "ftp://host", "http://", "http://host:port", "http://[::1", "http://host/#x"),
        *("http://u:hunter2@host", "http://u:hunter2@host:port", "http://host?key=hunter2"),
    ],
)
def test_an_address_of_another_kind_is_refused(url: str) -> None:
    with pytest.raises(UsageError) as caught:
        Client(url)
    assert "hunter2" not in str(caught.value)


def test_threads_share_a_client(script: Script, client: Client) -> None:
    films = [b"film %d" % number for number in range(160)]
    script.turns = [scripted.no_answer, error(503, "overloaded"), scripted.reset_half_way] * 5
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda film: segmented(client, film), films))
    assert [film.input_sha256 for film in found] == [hashlib.sha256(film).hexdigest() for film in films]
    assert len(script.films) == 160 + 15


def test_closing_wakes_who_waits(script: Script) -> None:
    script.default = error(503, "overloaded", {"Retry-After": "25"})
    client = Client(script.url, timeout=30)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(client.segment, FILM)
        while not script.films:
            time.sleep(0.01)
        time.sleep(0.2)
        began = time.monotonic()
        client.close()
        with pytest.raises(StorageError, match="closed"):
            waiting.result()
    assert time.monotonic() - began < SLACK
    with pytest.raises(StorageError, match="closed"):
        client.models()


def test_an_untrusted_certificate_is_reported_at_once(tmp_path: Path) -> None:
    write_certificate(tmp_path)
    server = HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    server.handle_error = lambda *_: None  # type: ignore[method-assign]
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "fullchain.pem", tmp_path / "privkey.pem")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"https://127.0.0.1:{server.server_port}"
    began = time.monotonic()
    with Client(url, timeout=100) as client, pytest.raises(StorageError, match="certificate not trusted"):
        client.segment(FILM)
    assert time.monotonic() - began < 30
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("tries", range(1, 12))
def test_waits_double_to_a_limit_and_are_drawn_from_the_whole_of_it(tries: int) -> None:
    most = [0.5, 1, 2, 4, 8, 16, 20, 20, 20, 20, 20][tries - 1]
    assert retry_delay(tries, None, lambda: 1.0) == most
    assert retry_delay(tries, None, lambda: 0.0) == 0
    assert retry_delay(tries, 7.0, lambda: 0.25) == 7 + most / 4
    assert retry_delay(tries, 1e9, lambda: 0.0) == 60
    drawn = [retry_delay(tries, None) for _ in range(2000)]
    assert 0 <= min(drawn) < max(drawn) <= most
    assert statistics.mean(drawn) == pytest.approx(most / 2, abs=0.05 * most)  # 7 standard errors


def asked(value: str, now: float) -> float | None:
    return Response(503, {"retry-after": value}, b"").retry_after(now)


def test_a_wait_may_be_asked_for_in_seconds_or_as_a_date() -> None:
    then = datetime(2025, 3, 9, 8, 7, 6, tzinfo=timezone.utc)
    assert asked("17", 0) == 17
    assert asked(" 0 ", 0) == 0
    assert asked("9" * 5000, 0) == float("inf")
    assert asked("Sun, 09 Mar 2025 08:07:06 GMT", then.timestamp() - 42) == 42
    assert asked(format_datetime(then, usegmt=True), then.timestamp() - 1.5) == 1.5
    assert asked(format_datetime(then.astimezone(timezone(timedelta(hours=5)))), then.timestamp() - 3) == 3
    assert asked(formatdate(then.timestamp(), usegmt=True), then.timestamp() + 99) == 0


@pytest.mark.parametrize(
    "value",
    [
        *("", "soon", "-5", "1.5", "٣", "Sun, 99 Foo 2025", "Mon, 01 Jan 0000 1:1:1"),
        *("Mon, 01 Jan 99999999999 00:00:00 GMT", "Mon, 01 Jan 2024 00:00:00 +99999999999999999999"),
    ],
)
def test_a_wait_that_makes_no_sense_counts_for_none(value: str) -> None:
    found = asked(value, 0)
    assert found is None or found >= 0


def test_the_words_of_a_server_are_one_printable_line(script: Script, client: Client) -> None:
    script.turns = [error(400, "\x1b[31mred\nand more" + "x" * 9999)]
    with pytest.raises(UsageError) as caught:
        client.segment(FILM)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 1000


def test_the_client_needs_neither_torch_nor_ray() -> None:
    code = """
import sys
sys.modules["ray"] = sys.modules["torch"] = sys.modules["fastapi"] = None
import covseg_ray.service.client
print(sorted({"starlette", "fsspec", "pyarrow", "pydicom", "scipy"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr

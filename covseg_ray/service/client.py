"""Films to a running covseg-ray service and their outlines back, over HTTP, with retries.

A film's outline changes nothing on the server, so whatever may pass by itself is tried again: a lost connection, an
overloaded or restarting server, a proxy without one behind it. What would come out the same again is not.
"""

from __future__ import annotations

import json
import os
import ssl
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, TypeVar

import httpx2

from covseg_ray import __version__
from covseg_ray.errors import CovsegError, StorageError, UsageError
from covseg_ray.radiograph.film import Rejected
from covseg_ray.service.retries import Answer, pause_seconds
from covseg_ray.service.schema import Film, Model, read_film, read_models

__all__ = ["Client", "Film", "Model", "Rejected"]

LIMIT_SECONDS = 120.0
CONNECT_SECONDS = 5.0
PIECE_BYTES = 1 << 18
KEY_VARIABLE = "COVSEG_API_KEY"

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Request:
    method: str
    path: str
    accept: str
    query: Mapping[str, str | None]
    data: bytes | None = None


class Client:
    """A service at ``url``; any number of threads may use it at a time. Use it as a context manager.

    ``key`` is sent where given, or else the environment's COVSEG_API_KEY. Every call ends within ``timeout`` seconds,
    the waiting between tries included; a call's own ``timeout`` goes before the client's.

    What a call raises: UsageError where the request cannot succeed as it is (key, URL, model's name); StorageError
    where no usable answer came in time, or the client was closed meanwhile; CovsegError where the server failed.
    """

    def __init__(self, url: str, key: str | None = None, *, timeout: float = LIMIT_SECONDS) -> None:
        self._url = _checked_url(url)
        self._limit = timeout
        self._key = _checked_key(key or os.environ.get(KEY_VARIABLE))
        headers = {"User-Agent": f"covseg-ray/{__version__}"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        self._http = httpx2.Client(headers=headers)
        self._closing = threading.Event()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections and wake the threads that wait between two tries."""
        self._closing.set()
        self._http.close()

    def segment(
        self, data: bytes, *, model: str | None = None, picture: bool = False, timeout: float | None = None
    ) -> Film | Rejected:
        """The outline of the PNG, JPEG, TIFF or DICOM file ``data``, or why that cannot be had."""
        query = {"model": model, "picture": "true" if picture else None}
        found = self._film(data, "application/json", query, timeout)
        return found if isinstance(found, Rejected) else self._read(read_film, found)

    def mask(self, data: bytes, *, model: str | None = None, timeout: float | None = None) -> bytes | Rejected:
        """The film's mask as a PNG of its own size."""
        return self._film(data, "image/png", {"model": model, "view": "mask"}, timeout)

    def overlay(self, data: bytes, *, model: str | None = None, timeout: float | None = None) -> bytes | Rejected:
        """The film with its infection drawn on it, as a PNG."""
        return self._film(data, "image/png", {"model": model, "view": "overlay"}, timeout)

    def seg(self, data: bytes, *, model: str | None = None, timeout: float | None = None) -> bytes | Rejected:
        """The outline as a DICOM SEG file; Rejected for a film that is no DICOM file."""
        return self._film(data, "application/dicom", {"model": model}, timeout)

    def models(self, *, timeout: float | None = None) -> tuple[Model, ...]:
        """The models that the service holds, the default one first."""
        answer = self._ask(_Request("GET", "/v1/model", "application/json", {}), timeout)
        return self._read(read_models, self._settled(answer, "application/json"))

    def _film(
        self, data: bytes, accept: str, query: Mapping[str, str | None], timeout: float | None
    ) -> bytes | Rejected:
        answer = self._ask(_Request("POST", "/v1/segment", accept, query, data), timeout)
        if answer.status in (413, 415, 422) and (error := answer.error):
            return Rejected(error["reason"], error["detail"])
        if answer.status == 413:  # from a proxy
            return Rejected("too-large", f"the service takes no file of {len(data):,} bytes")
        return self._settled(answer, accept)

    def _ask(self, request: _Request, timeout: float | None) -> Answer:
        """The first answer that another try would not better."""
        limit = self._limit if timeout is None else timeout
        began = time.monotonic()
        ends = began + limit
        request_id = uuid.uuid4().hex  # of all the tries: the service's log tells what became of each
        problem, tries, wait = "no time was left to ask", 0, 0.0
        while time.monotonic() + wait < ends:
            if self._closing.wait(wait):
                raise StorageError(f"{self._url}{request.path}: the client was closed before an answer came; ask again")
            tries += 1
            try:
                answer = self._send(request, request_id, ends)
            except httpx2.RequestError as error:
                self._require_trust(error)
                asked = None
                if tries == 1 or time.monotonic() < ends:  # what an earlier try met tells more than that time was up
                    problem = str(error) or type(error).__name__
            except RuntimeError:  # what the HTTP library raises where it was closed under way
                if not self._closing.is_set():
                    raise
                continue
            else:
                if not answer.may_pass:
                    return answer
                problem, asked = answer.words, answer.retry_after(time.time())
            wait = pause_seconds(tries, asked)
        raise StorageError(
            f"{self._url}{request.path}: no answer after {'1 try' if tries == 1 else f'{tries} tries'} in "
            f"{time.monotonic() - began:.0f} of {limit:g} s; the last: {problem}; request {request_id}; see that the "
            "service is up and not overloaded, or allow more time"
        )

    def _send(self, request: _Request, request_id: str, ends: float) -> Answer:
        left = max(ends - time.monotonic(), 0.001)
        headers, content = {"Accept": request.accept, "X-Request-ID": request_id}, None
        if request.data is not None:
            headers |= {"Content-Type": "application/octet-stream", "Content-Length": str(len(request.data))}
            content = _until(ends, _pieces(request.data))
        with self._http.stream(
            request.method,
            self._url + request.path,
            params={name: value for name, value in request.query.items() if value is not None},
            headers=headers,
            content=content,
            timeout=httpx2.Timeout(left, connect=min(CONNECT_SECONDS, left)),
        ) as response:
            body = b"".join(_until(ends, response.iter_bytes()))
        return Answer(response.status_code, response.headers, body)

    def _require_trust(self, error: BaseException | None) -> None:
        """Raise StorageError where a certificate is why: that does not pass."""
        while error:
            if isinstance(error, ssl.SSLCertVerificationError):
                raise StorageError(
                    f"{self._url}: certificate not trusted ({error.verify_message}); check the name in the URL, or set "
                    "SSL_CERT_FILE to a file with the certificate of its authority"
                ) from error
            error = error.__cause__ or error.__context__

    def _settled(self, answer: Answer, accept: str) -> bytes:
        """The body of a good answer. Raises UsageError or CovsegError for any other."""
        if answer.status == 200 and answer.media_type == accept:
            return answer.body
        if answer.status == 401:
            wrong = "the key was not accepted" if self._key else "a key is needed"
            raise UsageError(f"{self._url}: {wrong}; give it in a file (--key-file) or in {KEY_VARIABLE}")
        if answer.status >= 500:
            request_id = answer.headers.get("x-request-id", "without an id")
            raise CovsegError(f"{self._url}: {answer.words}; the service's log tells more of request {request_id}")
        if answer.error:
            raise UsageError(f"{self._url}: {answer.words}")
        raise UsageError(f"{self._url}: {answer.words} is no answer of covseg-ray; check the URL")

    def _read(self, read: Callable[[Any], T], body: bytes) -> T:
        try:
            return read(json.loads(body))
        except (KeyError, TypeError, ValueError) as error:
            raise CovsegError(
                f"{self._url}: an answer that covseg-ray {__version__} cannot read; use the service's version"
            ) from error


# Said without the URL: people have put passwords into theirs.
_NO_URL = "the URL is no address of a service: give one like http://127.0.0.1:8000, without ? and #"


def _checked_url(url: str) -> str:
    try:
        parts = httpx2.URL(url)
    except httpx2.InvalidURL as error:
        raise UsageError(_NO_URL) from error
    if parts.userinfo:
        raise UsageError(f"a name or password in the URL is not taken; a key goes by --key-file or {KEY_VARIABLE}")
    if parts.scheme not in ("http", "https") or not parts.host or parts.query or parts.fragment:
        raise UsageError(_NO_URL)
    return str(parts).rstrip("/")


def _checked_key(key: str | None) -> str | None:
    """Raises UsageError where a header could not carry it: the HTTP library would, and would print it."""
    if key and not (key.isascii() and key.isprintable() and " " not in key):
        raise UsageError("the key has a space or a character that no key has; check the file or variable it is in")
    return key or None


def _pieces(data: bytes) -> Iterator[bytes]:
    return (data[start : start + PIECE_BYTES] for start in range(0, len(data), PIECE_BYTES))


def _until(ends: float, pieces: Iterable[bytes]) -> Iterator[bytes]:
    """``pieces`` as long as there is time: the library's own limits begin anew with each of them."""
    for piece in pieces:
        if time.monotonic() >= ends:
            raise httpx2.TimeoutException("the film or its answer was still under way when the time was up")
        yield piece

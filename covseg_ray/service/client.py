"""A client of a covseg-ray service: sends films over HTTP, with retries.

To segment a film changes nothing on the server, so transient failures are retried: a lost connection, an overloaded or
restarting server, a proxy whose server is down. Permanent ones are not.
"""

from __future__ import annotations

import os
import ssl
import threading
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar

import httpx2
from pydantic import ValidationError

from covseg_ray import __version__
from covseg_ray.errors import CovsegError, StorageError, UsageError
from covseg_ray.radiograph.film import Rejected
from covseg_ray.service.retries import Response, retry_delay
from covseg_ray.service.schema import Document, ModelInfo, ModelList, PngFilm

TIMEOUT_SECONDS = 120.0
CONNECT_SECONDS = 5.0
CHUNK_BYTES = 1 << 18
KEY_VARIABLE = "COVSEG_API_KEY"

D = TypeVar("D", bound=Document)


@dataclass(frozen=True, slots=True)
class _Request:
    method: str
    path: str
    accept: str
    query: Mapping[str, str | None]
    data: bytes | None = None


class Client:
    """A client of the service at ``url``, safe to share between threads. Use it as a context manager.

    ``key`` is the API key; the environment variable COVSEG_API_KEY when not given. Every call ends within ``timeout``
    seconds, retries included; a call's own ``timeout`` overrides it.

    Calls raise UsageError if the request cannot succeed (key, URL, name of the model), StorageError if no usable
    response arrived in time or the client was closed, CovsegError if the server failed.
    """

    def __init__(self, url: str, key: str | None = None, *, timeout: float = TIMEOUT_SECONDS) -> None:
        self._url = _checked_url(url)
        self._timeout = timeout
        self._key = _checked_key(key or os.environ.get(KEY_VARIABLE))
        headers = {"User-Agent": f"covseg-ray/{__version__}"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        self._http = httpx2.Client(headers=headers)
        self._closing = threading.Event()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections and wake the threads that wait for a retry."""
        self._closing.set()
        self._http.close()

    def segment(
        self,
        data: bytes,
        *,
        model: str | None = None,
        picture: bool = False,
        reject_unlike: bool = False,
        timeout: float | None = None,
    ) -> PngFilm | Rejected:
        """Segment the PNG, JPEG, TIFF or DICOM file ``data``; Rejected if it cannot be used or, with ``reject_unlike``,
        does not look like a frontal chest film."""
        query = {
            "model": model,
            "picture": "true" if picture else None,
            "unlike": "reject" if reject_unlike else None,
        }
        found = self._film(data, "application/json", query, timeout)
        return found if isinstance(found, Rejected) else self._parse(PngFilm, found)

    def mask(self, data: bytes, *, model: str | None = None, timeout: float | None = None) -> bytes | Rejected:
        """The film's mask as a PNG of the film's size."""
        return self._film(data, "image/png", {"model": model, "view": "mask"}, timeout)

    def overlay(self, data: bytes, *, model: str | None = None, timeout: float | None = None) -> bytes | Rejected:
        """The film with its infection drawn on it, as a PNG."""
        return self._film(data, "image/png", {"model": model, "view": "overlay"}, timeout)

    def seg(self, data: bytes, *, model: str | None = None, timeout: float | None = None) -> bytes | Rejected:
        """The mask as a DICOM SEG file; Rejected for a film that is not a DICOM file."""
        return self._film(data, "application/dicom", {"model": model}, timeout)

    def models(self, *, timeout: float | None = None) -> list[ModelInfo]:
        """The models of the service; the first is the default."""
        response = self._request(_Request("GET", "/v1/model", "application/json", {}), timeout)
        return self._parse(ModelList, self._body(response, "application/json")).models

    def _film(
        self, data: bytes, accept: str, query: Mapping[str, str | None], timeout: float | None
    ) -> bytes | Rejected:
        response = self._request(_Request("POST", "/v1/segment", accept, query, data), timeout)
        if response.status in (413, 415, 422) and (error := response.error):
            return Rejected(*error)
        if response.status == 413:  # from a proxy
            return Rejected("too-large", f"the service takes no file of {len(data):,} bytes")
        return self._body(response, accept)

    def _request(self, request: _Request, timeout: float | None) -> Response:
        """The first response that is not transient."""
        limit = self._timeout if timeout is None else timeout
        start = time.monotonic()
        deadline = start + limit
        request_id = uuid.uuid4().hex  # one for all tries: the service's log shows what happened to each
        problem, tries, delay = "no time was left to send a request", 0, 0.0
        while time.monotonic() + delay < deadline:
            if self._closing.wait(delay):
                raise StorageError(f"{self._url}{request.path}: the client was closed before a response arrived; retry")
            tries += 1
            try:
                response = self._send(request, request_id, deadline)
            except httpx2.RequestError as error:
                self._require_trust(error)
                retry_after = None
                if tries == 1 or time.monotonic() < deadline:  # the earlier problem says more than a time-out
                    problem = str(error) or type(error).__name__
            except RuntimeError:  # raised by the HTTP library when it is closed during a request
                if not self._closing.is_set():
                    raise
                continue
            else:
                if not response.is_transient:
                    return response
                problem, retry_after = response.summary, response.retry_after(time.time())
            delay = retry_delay(tries, retry_after)
        raise StorageError(
            f"{self._url}{request.path}: no response after {'1 try' if tries == 1 else f'{tries} tries'} in "
            f"{time.monotonic() - start:.0f} of {limit:g} s; last problem: {problem}; request {request_id}; check that "
            "the service is up and not overloaded, or allow more time"
        )

    def _send(self, request: _Request, request_id: str, deadline: float) -> Response:
        left = max(deadline - time.monotonic(), 0.001)
        headers, content = {"Accept": request.accept, "X-Request-ID": request_id}, None
        if request.data is not None:
            headers |= {"Content-Type": "application/octet-stream", "Content-Length": str(len(request.data))}
            content = _until(deadline, _chunks(request.data))
        with self._http.stream(
            request.method,
            self._url + request.path,
            params={name: value for name, value in request.query.items() if value is not None},
            headers=headers,
            content=content,
            timeout=httpx2.Timeout(left, connect=min(CONNECT_SECONDS, left)),
        ) as response:
            body = b"".join(_until(deadline, response.iter_bytes()))
        return Response(response.status_code, response.headers, body)

    def _require_trust(self, error: BaseException | None) -> None:
        """Raise StorageError if the server's certificate is the cause: a retry does not help."""
        while error:
            if isinstance(error, ssl.SSLCertVerificationError):
                raise StorageError(
                    f"{self._url}: certificate not trusted ({error.verify_message}); check the name in the URL, or set "
                    "SSL_CERT_FILE to a file with the certificate of its authority"
                ) from error
            error = error.__cause__ or error.__context__

    def _body(self, response: Response, accept: str) -> bytes:
        """The body of a successful response. Raises UsageError or CovsegError for any other."""
        if response.status == 200 and response.media_type == accept:
            return response.body
        if response.status == 401:
            problem = "the key was not accepted" if self._key else "a key is needed"
            raise UsageError(f"{self._url}: {problem}; give it in a file (--key-file) or in {KEY_VARIABLE}")
        if response.status >= 500:
            request_id = response.headers.get("x-request-id", "without an id")
            raise CovsegError(f"{self._url}: {response.summary}; see the service's log for request {request_id}")
        if response.error:
            raise UsageError(f"{self._url}: {response.summary}")
        raise UsageError(f"{self._url}: {response.summary} is not a response of covseg-ray; check the URL")

    def _parse(self, document: type[D], body: bytes) -> D:
        try:
            return document.model_validate_json(body)
        except ValidationError as error:
            raise CovsegError(
                f"{self._url}: covseg-ray {__version__} cannot read this response; use the version of the service"
            ) from error


# Without the URL: it may hold a password.
_BAD_URL = "the URL is not the address of a service: give one like http://127.0.0.1:8000, without ? and #"


def _checked_url(url: str) -> str:
    try:
        parts = httpx2.URL(url)
    except httpx2.InvalidURL as error:
        raise UsageError(_BAD_URL) from error
    if parts.userinfo:
        raise UsageError(f"do not put a name or password into the URL; give the key by --key-file or {KEY_VARIABLE}")
    if parts.scheme not in ("http", "https") or not parts.host or parts.query or parts.fragment:
        raise UsageError(_BAD_URL)
    return str(parts).rstrip("/")


def _checked_key(key: str | None) -> str | None:
    """Raises UsageError if a header cannot carry the key: the HTTP library would print it."""
    if key and not (key.isascii() and key.isprintable() and " " not in key):
        raise UsageError("the key holds a space or an invalid character; check its file or variable")
    return key or None


def _chunks(data: bytes) -> Iterator[bytes]:
    return (data[start : start + CHUNK_BYTES] for start in range(0, len(data), CHUNK_BYTES))


def _until(deadline: float, chunks: Iterable[bytes]) -> Iterator[bytes]:
    """``chunks`` until the deadline: the HTTP library's own time-outs start again with each chunk."""
    for chunk in chunks:
        if time.monotonic() >= deadline:
            raise httpx2.TimeoutException("the transfer was not finished in time")
        yield chunk

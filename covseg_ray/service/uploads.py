"""The films of a request: its body, or the files of a form; within limits of size and time."""

from __future__ import annotations

from dataclasses import dataclass

import anyio
from fastapi import Request
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import Message, Receive

from covseg_ray.service.backend import Settings
from covseg_ray.service.errors import RequestError


@dataclass(frozen=True)
class UploadedFilm:
    """A file's bytes, and its name if it came in a form."""

    data: bytes
    name: str | None = None


@dataclass(frozen=True)
class Upload:
    """The films of one request; a form may hold several."""

    films: list[UploadedFilm]
    is_form: bool


async def read_upload(request: Request, settings: Settings) -> Upload:
    """Read the whole body. Raises 400, 408 and 413."""
    limited = Request(request.scope, _limited(request, settings.max_body_bytes))
    is_form = request.headers.get("content-type", "").lower().startswith("multipart/form-data")
    try:
        with anyio.fail_after(settings.body_seconds):
            films = await _form(limited, settings) if is_form else [UploadedFilm(await limited.body())]
    except TimeoutError:
        detail = f"the body did not arrive within {settings.body_seconds:g} s"
        raise RequestError(408, "too-slow", detail, {"Connection": "close"}) from None
    except ClientDisconnect:
        raise RequestError(400, "client-gone", "the client disconnected before its body had arrived") from None
    return Upload(films, is_form)


def _limited(request: Request, max_bytes: int) -> Receive:
    """The messages of ``request``. Raises 413 once they are, or are announced to be, larger than ``max_bytes``."""
    announced, received = request.headers.get("content-length", ""), 0

    async def receive() -> Message:
        nonlocal received
        if announced.isdecimal() and int(announced) > max_bytes:
            raise _too_large(max_bytes)
        message = await request.receive()
        received += len(message.get("body", b""))
        if received > max_bytes:
            raise _too_large(max_bytes)
        return message

    return receive


def _too_large(max_bytes: int) -> RequestError:
    detail = f"the body is larger than {max_bytes:,} bytes, which is the most that this endpoint takes"
    return RequestError(413, "body-too-large", detail, {"Connection": "close"})


async def _form(request: Request, settings: Settings) -> list[UploadedFilm]:
    try:
        async with request.form(max_files=settings.max_films, max_fields=settings.max_films) as form:
            parts = [part for _, part in form.multi_items() if isinstance(part, UploadFile)]
            films = [UploadedFilm(await part.read(), part.filename) for part in parts]
    except HTTPException as error:  # of python-multipart, about the form itself
        raise RequestError(
            400, "bad-form", f"not a form of at most {settings.max_films} files: {error.detail}"
        ) from None
    if not films:
        raise RequestError(400, "bad-form", "the form holds no file: send each film as a file of the form")
    return films

"""The films of a request: its body as it is, or the files of a form; within limits of size and time."""

from __future__ import annotations

from dataclasses import dataclass

import anyio
from fastapi import Request
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import Message, Receive

from covseg_ray.service.refusals import RefusedRequestError
from covseg_ray.service.settings import Settings


@dataclass(frozen=True)
class SentFilm:
    """A file's bytes, and its name where a form gave one."""

    data: bytes
    name: str | None = None


@dataclass(frozen=True)
class Sent:
    """The films of one request; ``is_form`` where they came as a form, which may hold several."""

    films: list[SentFilm]
    is_form: bool


async def read_films(request: Request, settings: Settings) -> Sent:
    """Everything that a request sends. Raises 400, 408 and 413, and 400 where the client went away."""
    limited = Request(request.scope, _limited(request, settings))
    is_form = request.headers.get("content-type", "").lower().startswith("multipart/form-data")
    try:
        with anyio.fail_after(settings.body_seconds):
            films = await _form(limited, settings) if is_form else [SentFilm(await limited.body())]
    except TimeoutError:
        detail = f"the body did not arrive within {settings.body_seconds:g} s"
        raise RefusedRequestError(408, "too-slow", detail, {"Connection": "close"}) from None
    except ClientDisconnect:
        raise RefusedRequestError(400, "client-gone", "the client went away before its body had arrived") from None
    return Sent(films, is_form)


def _limited(request: Request, settings: Settings) -> Receive:
    """What ``request`` receives, until it is more than a body may be."""
    told, arrived = request.headers.get("content-length", ""), 0
    most = settings.max_body_bytes

    async def receive() -> Message:
        nonlocal arrived
        if told.isdecimal() and int(told) > most:
            raise _too_large(most)
        message = await request.receive()
        arrived += len(message.get("body", b""))
        if arrived > most:
            raise _too_large(most)
        return message

    return receive


def _too_large(most: int) -> RefusedRequestError:
    detail = f"the body is larger than {most:,} bytes, which is the most that this endpoint takes"
    return RefusedRequestError(413, "body-too-large", detail, {"Connection": "close"})


async def _form(request: Request, settings: Settings) -> list[SentFilm]:
    try:
        async with request.form(max_files=settings.max_films, max_fields=settings.max_films) as form:
            parts = [part for _, part in form.multi_items() if isinstance(part, UploadFile)]
            films = [SentFilm(await part.read(), part.filename) for part in parts]
    except HTTPException as error:  # of python-multipart, about the form itself
        raise RefusedRequestError(
            400, "bad-form", f"not a form of at most {settings.max_films} files: {error.detail}"
        ) from None
    if not films:
        raise RefusedRequestError(400, "bad-form", "the form holds no file: send each film as a file of the form")
    return films

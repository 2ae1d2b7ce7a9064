"""The endpoint: films in, what was found on them out. Who runs the models comes in as a function."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from fastapi.responses import FileResponse, JSONResponse
from fastapi.security import HTTPBearer
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException

from covseg_ray import __version__
from covseg_ray.radiograph.film import Rejected
from covseg_ray.radiograph.findings import area_fraction
from covseg_ray.service import examples
from covseg_ray.service.auth import Keys
from covseg_ray.service.envelope import Envelope, Observe
from covseg_ray.service.film_pipeline import Outlined, Outliner, in_thread
from covseg_ray.service.models import Predict
from covseg_ray.service.refusals import RefusedRequestError, answer, of_film
from covseg_ray.service.responses import (
    DICOM,
    JSON,
    PNG,
    MaskEncoding,
    View,
    as_dicom,
    as_json,
    as_png,
    to_bytes,
    wanted_type,
)
from covseg_ray.service.settings import Settings
from covseg_ray.service.uploads import Sent, SentFilm, read_films

PAGE = Path(__file__).parent / "page"
TITLE = "covseg-ray"
SUMMARY = "Outlines COVID-19 infection on chest X-rays. Research software, not a medical device."


def create_app(predict: Predict, settings: Settings, observe: Observe) -> FastAPI:
    """The ASGI app of one endpoint, with its page at ``/`` and its description at ``/docs``.

    Raises UsageError where the file of API keys cannot be used.
    """
    outliner, keys = Outliner(predict, settings), Keys(settings.keys_file)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await in_thread(outliner.decoders.start)
        yield
        outliner.decoders.close()

    app = FastAPI(
        title=TITLE, description=SUMMARY, version=__version__, docs_url=None, redoc_url=None, lifespan=lifespan
    )
    app.add_middleware(Envelope, observe=observe)
    _add_refusals(app)
    _add_pages(app)
    _add_health(app, outliner)
    _add_films(app, outliner, keys, settings, observe)
    app.openapi = lambda: _description(app)  # type: ignore[method-assign]
    return app


def _add_films(app: FastAPI, outliner: Outliner, keys: Keys, settings: Settings, observe: Observe) -> None:
    async def check_key(request: Request) -> None:
        # Through a reverse proxy on this machine everybody seems to be on it.
        forwarded = "x-forwarded-for" in request.headers or "forwarded" in request.headers
        caller = request.client.host if request.client and not forwarded else None
        keys.check(request.headers.get("authorization"), caller)

    # The scheme itself refuses nobody: it stands in the description where there are keys.
    scheme = [Depends(HTTPBearer(auto_error=False))] if keys.wanted else []
    needs_key = [*scheme, Depends(check_key)]

    @app.get("/v1/model", dependencies=needs_key, responses={401: examples.NO_KEY, 503: examples.NO_MODEL})
    async def model() -> JSONResponse:
        """The models that are served; the first is the default."""
        return JSONResponse({"models": [asdict(info) for info in (await outliner.models()).values()]})

    @app.post(
        "/v1/segment",
        dependencies=needs_key,
        response_class=Response,
        responses=examples.SEGMENT_ANSWERS,
        openapi_extra={"requestBody": examples.REQUEST_BODY},
    )
    async def segment(
        request: Request,
        model: Annotated[str | None, Query(description="Which model; the first without it.")] = None,
        view: Annotated[View, Query(description="Of image/png: the mask, or the film with its contour.")] = "mask",
        mask: Annotated[MaskEncoding, Query(description="How JSON carries the mask.")] = "png",
        picture: Annotated[bool, Query(description="JSON carries the film as a grey PNG, too.")] = False,
    ) -> Response:
        """Outline the infection on one film, or on the films of a form."""
        kind = wanted_type(request)
        with outliner.admitted():
            sent = await read_films(request, settings)
            if kind != JSON and len(sent.films) > 1:
                raise RefusedRequestError(406, "not-acceptable", f"several films are answered as {JSON} alone")
            await outliner.model(model)
            found = [await _outlined(film, outliner, model, observe) for film in sent.films]
            if kind == JSON:
                return await _json(sent, found, mask, picture)
            return await _file(sent.films[0], found[0], kind, view)


async def _outlined(film: SentFilm, outliner: Outliner, model: str | None, observe: Observe) -> Outlined | Rejected:
    found = await outliner.outline(film.data, model)
    if isinstance(found, Rejected):
        observe.rejected(found.reason)
    else:
        observe.infection(area_fraction(found.masks["infection"]))
    return found


async def _json(sent: Sent, found: list[Outlined | Rejected], mask: MaskEncoding, picture: bool) -> Response:
    if not sent.is_form and isinstance(found[0], Rejected):
        raise of_film(found[0])
    documents = []
    for film, one in zip(sent.films, found, strict=True):
        start = time.perf_counter()
        document = await in_thread(as_json, one, film.name, mask, picture)
        if "timing_ms" in document:
            document["timing_ms"]["render"] = round(1000 * (time.perf_counter() - start), 2)
        documents.append(document)
    body = await in_thread(to_bytes, {"films": documents} if sent.is_form else documents[0])
    return Response(body, media_type=JSON)


async def _file(film: SentFilm, found: Outlined | Rejected, kind: str, view: View) -> Response:
    if isinstance(found, Rejected):
        raise of_film(found)
    if kind == DICOM:
        return Response(await in_thread(as_dicom, found, film.data), media_type=DICOM)
    return Response(await in_thread(as_png, found, view), media_type=PNG)


def _add_health(app: FastAPI, outliner: Outliner) -> None:
    @app.get("/healthz")
    async def alive() -> dict[str, str]:
        """Whether this server answers at all."""
        return {"status": "alive"}

    @app.get("/readyz", responses={503: examples.NO_MODEL})
    async def ready() -> dict[str, str]:
        """Whether every model is loaded and warm."""
        await outliner.models()
        return {"status": "ready"}


def _add_pages(app: FastAPI) -> None:
    @app.get("/", include_in_schema=False)
    async def page() -> FileResponse:
        return FileResponse(PAGE / "index.html")

    @app.get("/docs", include_in_schema=False)
    async def docs() -> FileResponse:
        return FileResponse(PAGE / "docs.html")

    app.mount("/docs/assets", StaticFiles(directory=str(files("fastapi_offline") / "static")), name="docs-assets")
    app.mount("/page", StaticFiles(directory=PAGE), name="page")


def _add_refusals(app: FastAPI) -> None:
    @app.exception_handler(RefusedRequestError)
    async def refused(request: Request, error: RefusedRequestError) -> Response:
        return answer(error, request.scope["request_id"])

    @app.exception_handler(RequestValidationError)
    async def bad_query(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        detail = f"{first['loc'][-1]}: {first['msg']}"
        return answer(RefusedRequestError(400, "bad-query", detail), request.scope["request_id"])

    @app.exception_handler(HTTPException)
    async def of_the_framework(request: Request, error: HTTPException) -> Response:
        reason = {404: "not-found", 405: "method-not-allowed"}.get(error.status_code, "refused")
        refusal = RefusedRequestError(error.status_code, reason, str(error.detail), error.headers)
        return answer(refusal, request.scope["request_id"])

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> Response:
        refusal = RefusedRequestError(500, "failed", "the server failed on this request; its log has the request id")
        return answer(refusal, request.scope["request_id"])


def _description(app: FastAPI) -> dict[str, Any]:
    if app.openapi_schema is None:
        schema = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
        schema.setdefault("components", {}).setdefault("schemas", {})["Refusal"] = examples.REFUSAL_SCHEMA
        # Given along with the route, they would lose what is null in them.
        done = schema["paths"]["/v1/segment"]["post"]["responses"]["200"]
        done["content"][JSON]["examples"] = examples.FILMS
        app.openapi_schema = schema
    return app.openapi_schema

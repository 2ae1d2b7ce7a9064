"""The endpoint's ASGI app. The models are run by a backend that the caller gives."""

from __future__ import annotations

from asyncio import to_thread
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.resources import files
from pathlib import Path
from typing import Annotated

from fastapi import Depends, FastAPI, Query, Request, Response
from fastapi.responses import FileResponse
from fastapi.security import HTTPBearer
from fastapi.staticfiles import StaticFiles

from covseg_ray import __version__
from covseg_ray.radiograph.film import Rejected
from covseg_ray.radiograph.findings import area_fraction
from covseg_ray.service import openapi
from covseg_ray.service.auth import ApiKeys
from covseg_ray.service.backend import Backend, Settings
from covseg_ray.service.errors import RequestError, add_error_handlers, rejected_film
from covseg_ray.service.film_pipeline import FilmPipeline, SegmentedFilm, Unlike
from covseg_ray.service.middleware import Metrics, RequestMiddleware
from covseg_ray.service.responses import (
    DICOM,
    JSON,
    PNG,
    MaskEncoding,
    View,
    dicom_seg,
    film_document,
    negotiated_type,
    png_image,
)
from covseg_ray.service.schema import FilmList, ModelList
from covseg_ray.service.uploads import Upload, UploadedFilm, read_upload

PAGE = Path(__file__).parent / "page"
TITLE = "covseg-ray"
SUMMARY = "Segments COVID-19 infection on chest X-rays. Research software, not a medical device."


def create_app(backend: Backend, settings: Settings, metrics: Metrics) -> FastAPI:
    """The ASGI app of one endpoint, with its page at ``/`` and its description at ``/docs``.

    Raises UsageError if the file of API keys cannot be used.
    """
    pipeline, keys = FilmPipeline(backend, settings), ApiKeys(settings.keys_file)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await to_thread(pipeline.decoders.start)
        yield
        pipeline.decoders.close()

    app = FastAPI(
        title=TITLE, description=SUMMARY, version=__version__, docs_url=None, redoc_url=None, lifespan=lifespan
    )
    app.add_middleware(RequestMiddleware, metrics=metrics)
    add_error_handlers(app)
    _add_pages(app)
    _add_health(app, pipeline)
    _add_films(app, pipeline, keys, settings, metrics)
    app.openapi = lambda: openapi.description(app)  # type: ignore[method-assign]
    return app


def _add_films(app: FastAPI, pipeline: FilmPipeline, keys: ApiKeys, settings: Settings, metrics: Metrics) -> None:
    async def check_key(request: Request) -> None:
        # Behind a reverse proxy on this machine every caller has a local address.
        forwarded = "x-forwarded-for" in request.headers or "forwarded" in request.headers
        caller = request.client.host if request.client and not forwarded else None
        keys.check(request.headers.get("authorization"), caller)

    # The scheme itself refuses nobody: it is there for the description.
    scheme = [Depends(HTTPBearer(auto_error=False))] if keys.required else []
    needs_key = [*scheme, Depends(check_key)]

    @app.get("/v1/model", dependencies=needs_key, responses={401: openapi.NO_KEY, 503: openapi.NO_MODEL})
    async def model() -> ModelList:
        """List the models; the first is the default."""
        return ModelList(models=list((await pipeline.models()).values()))

    @app.post(
        "/v1/segment",
        dependencies=needs_key,
        response_class=Response,
        responses=openapi.SEGMENT_RESPONSES,
        openapi_extra={"requestBody": openapi.REQUEST_BODY},
    )
    async def segment(
        request: Request,
        model: Annotated[str | None, Query(description="Name of the model; the first when not given.")] = None,
        view: Annotated[View, Query(description="For image/png: the mask, or the film with its contour.")] = "mask",
        mask: Annotated[MaskEncoding, Query(description="Encoding of the mask in JSON.")] = "png",
        picture: Annotated[bool, Query(description="Add the film to the JSON, as an 8-bit grey PNG.")] = False,
        unlike: Annotated[
            Unlike,
            Query(description="Segment a film that is not like a frontal chest film, or reject it as `not-frontal`."),
        ] = "mask",
    ) -> Response:
        """Segment the infection on one film, or on the films of a form."""
        media_type = negotiated_type(request)
        async with pipeline.admit():
            upload = await read_upload(request, settings)
            if media_type != JSON and len(upload.films) > 1:
                raise RequestError(406, "not-acceptable", f"several films are answered as {JSON} alone")
            await pipeline.model(model)
            found = [await _segment(film, pipeline, model, unlike, metrics) for film in upload.films]
            if media_type == JSON:
                return await _json(upload, found, mask, picture)
            return await _file(upload.films[0], found[0], media_type, view)


async def _segment(
    film: UploadedFilm, pipeline: FilmPipeline, model: str | None, unlike: Unlike, metrics: Metrics
) -> SegmentedFilm | Rejected:
    found = await pipeline.segment(film.data, model, unlike)
    if isinstance(found, Rejected):
        metrics.rejected(found.reason)
    else:
        metrics.infection(area_fraction(found.masks["infection"]))
    return found


async def _json(upload: Upload, found: list[SegmentedFilm | Rejected], mask: MaskEncoding, picture: bool) -> Response:
    if not upload.is_form and isinstance(found[0], Rejected):
        raise rejected_film(found[0])
    documents = [
        await to_thread(film_document, each, film.name, mask, picture)
        for film, each in zip(upload.films, found, strict=True)
    ]
    document = FilmList.model_construct(films=documents) if upload.is_form else documents[0]
    return Response(await to_thread(document.to_json), media_type=JSON)


async def _file(film: UploadedFilm, found: SegmentedFilm | Rejected, media_type: str, view: View) -> Response:
    if isinstance(found, Rejected):
        raise rejected_film(found)
    if media_type == DICOM:
        return Response(await to_thread(dicom_seg, found, film.data), media_type=DICOM)
    return Response(await to_thread(png_image, found, view), media_type=PNG)


def _add_health(app: FastAPI, pipeline: FilmPipeline) -> None:
    @app.get("/healthz")
    async def alive() -> dict[str, str]:
        """Check that the server answers."""
        return {"status": "alive"}

    @app.get("/readyz", responses={503: openapi.NO_MODEL})
    async def ready() -> dict[str, str]:
        """Check that every model is loaded and warm."""
        await pipeline.models()
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

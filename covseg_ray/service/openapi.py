"""The endpoint's OpenAPI description: request bodies, responses and examples, from the models of the schema."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from covseg_ray.radiograph.formats import FORMATS, NOT_AN_IMAGE, UNKNOWN_FORMAT
from covseg_ray.service.schema import (
    Error,
    ErrorDocument,
    Film,
    FilmList,
    Milliseconds,
    ModelName,
    RejectedFilm,
    RleMask,
)

_BINARY = {"schema": {"type": "string", "format": "binary"}}
_FORM = {
    "schema": {
        "type": "object",
        "properties": {"films": {"type": "array", "items": {"type": "string", "format": "binary"}, "minItems": 1}},
        "required": ["films"],
    }
}
_FILM_TYPES = ("application/octet-stream", *(each.media_type for each in FORMATS))

REQUEST_BODY: dict[str, Any] = {
    "required": True,
    "description": "One film as the body, or one or more films as the files of a form.",
    "content": {**dict.fromkeys(_FILM_TYPES, _BINARY), "multipart/form-data": _FORM},
}

# A film of 8 x 8 pixels, short enough to read.
FILM = Film(
    status="ok",
    name=None,
    height=8,
    width=8,
    frontal=0.0011,
    frontal_level=0.005,
    infection_fraction=0.0625,
    lung_fraction=None,
    severity=None,
    expected_iou=0.71,
    contours=(
        ((2.0, 2.5), (2.5, 2.0), (3.5, 2.0), (4.0, 2.5), (4.0, 3.5), (3.5, 4.0), (2.5, 4.0), (2.0, 3.5), (2.0, 2.5)),
    ),
    mask=RleMask(encoding="coco-rle", size=(8, 8), counts=[18, 2, 6, 2, 36]),
    dicom=False,
    input_sha256="9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    preprocess_version="1",
    model=ModelName(name="default", model_id="7e657587eaae16fb"),
    timing_ms=Milliseconds(decode=2.1, predict=95.4, render=1.2),
)
REJECTED = RejectedFilm(
    status="rejected",
    name="broken.png",
    reason="truncated",
    detail="the PNG ends after 1,024 bytes, before its last chunk",
)
_EXAMPLES = {
    "one film": FILM,
    "a form of two": FilmList(films=[FILM.model_copy(update={"name": "film.png"}), REJECTED]),
}


def _error(description: str, reason: str, detail: str) -> dict[str, Any]:
    example = ErrorDocument(error=Error(reason=reason, detail=detail, request_id="5f0c9c1e8a7d4d0fb3a1c2d3e4f50617"))
    return {
        "model": ErrorDocument,
        "description": description,
        "content": {"application/json": {"example": example.model_dump()}},
    }


NO_MODEL = _error(
    "No model is ready, or too many films are queued: try again.", "overloaded", "too many films are queued"
)
NO_KEY = _error("No API key, or an invalid one.", "no-valid-key", "an API key is needed")
SEGMENT_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {
        "model": Film | FilmList,
        "description": "The segmented film, or the films of a form in their order.",
        "content": {"application/json": {}, "image/png": _BINARY, "application/dicom": _BINARY},
    },
    400: _error("The query or the form is invalid.", "bad-query", "mask: Input should be 'png' or 'rle'"),
    401: NO_KEY,
    404: _error("Unknown model.", "unknown-model", "no model of that name here: default"),
    406: _error("Media type not available.", "not-acceptable", "answers are application/json, image/png or ..."),
    408: _error("The body did not arrive in time.", "too-slow", "the body did not arrive within 30 s"),
    413: _error("The body is too large.", "body-too-large", "the body is larger than 268,435,456 bytes"),
    415: _error("The bytes are of no supported type.", NOT_AN_IMAGE, UNKNOWN_FORMAT),
    422: _error(
        "The film cannot be used or, with `unlike=reject`, is not like a frontal chest film.",
        "truncated",
        "the PNG ends after 1,024 bytes, before its last chunk",
    ),
    503: NO_MODEL,
}


def description(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document of ``app``, built once."""
    if app.openapi_schema is None:
        schema = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
        # Added here because FastAPI removes every null from what is given along with a route.
        segmented = schema["paths"]["/v1/segment"]["post"]["responses"]["200"]
        segmented["content"]["application/json"]["examples"] = {
            title: {"value": example.model_dump(mode="json", exclude_unset=True)}
            for title, example in _EXAMPLES.items()
        }
        app.openapi_schema = schema
    return app.openapi_schema

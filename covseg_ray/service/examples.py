"""The endpoint as its description shows it: what may be sent, what comes back."""

from __future__ import annotations

from typing import Any

from covseg_ray.radiograph.formats import FORMATS, NOT_AN_IMAGE, UNKNOWN_FORMAT

_BINARY = {"schema": {"type": "string", "format": "binary"}}
_FORM = {
    "schema": {
        "type": "object",
        "properties": {"films": {"type": "array", "items": {"type": "string", "format": "binary"}, "minItems": 1}},
        "required": ["films"],
    }
}
_MEDIA_TYPES = ("application/octet-stream", *(each.media_type for each in FORMATS))

REQUEST_BODY: dict[str, Any] = {
    "required": True,
    "description": "One film as it is, or one or many as the files of a form.",
    "content": {**dict.fromkeys(_MEDIA_TYPES, _BINARY), "multipart/form-data": _FORM},
}

# Of a film of 8 x 8 pixels: nobody reads more of them here.
FILM: dict[str, Any] = {
    "status": "ok",
    "name": None,
    "height": 8,
    "width": 8,
    "frontal": 0.0011,
    "frontal_level": 0.005,
    "infection_fraction": 0.0625,
    "lung_fraction": None,
    "severity": None,
    "contours": [
        [[2.0, 2.5], [2.5, 2.0], [3.5, 2.0], [4.0, 2.5], [4.0, 3.5], [3.5, 4.0], [2.5, 4.0], [2.0, 3.5], [2.0, 2.5]]
    ],
    "mask": {"encoding": "coco-rle", "size": [8, 8], "counts": [18, 2, 6, 2, 36]},
    "dicom": False,
    "input_sha256": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    "preprocess_version": "1",
    "model": {"name": "default", "model_id": "7e657587eaae16fb"},
    "timing_ms": {"decode": 2.1, "predict": 95.4, "render": 1.2},
}
REJECTED: dict[str, Any] = {
    "status": "rejected",
    "name": "broken.png",
    "reason": "truncated",
    "detail": "the PNG ends after 1,024 bytes, before its last chunk",
}
MODELS: dict[str, Any] = {
    "models": [
        {
            "name": "default",
            "model_id": "7e657587eaae16fb",
            "classes": ["background", "infection"],
            "input_size": 256,
            "resize": "stretch",
            "architecture": "unet",
            "encoder": "resnet34",
            "preprocess_version": "1",
            "version": "0.1.0",
        }
    ]
}
FILMS: dict[str, Any] = {
    "one film": {"value": FILM},
    "a form of two": {"value": {"films": [{**FILM, "name": "film.png"}, REJECTED]}},
}


def _refusal(reason: str, detail: str) -> dict[str, Any]:
    return {"error": {"reason": reason, "detail": detail, "request_id": "5f0c9c1e8a7d4d0fb3a1c2d3e4f50617"}}


def _refused(description: str, reason: str, detail: str) -> dict[str, Any]:
    return {
        "description": description,
        "content": {
            "application/json": {
                "schema": {"$ref": "#/components/schemas/Refusal"},
                "example": _refusal(reason, detail),
            }
        },
    }


NO_MODEL = _refused("no model is ready, or too many films wait: try again", "overloaded", "too many films wait already")
NO_KEY = _refused("no key, or none that opens", "no-valid-key", "an API key is needed")

SEGMENT_ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "What was found: one film, or the films of a form in their order. `frontal` says how much a "
        "film is like frontal chest films, from 0 (like none) to 1: below `frontal_level` it does not look like one, "
        "and what was outlined on it is not to be relied on.",
        "content": {
            "application/json": {"schema": {"type": "object"}},
            "image/png": _BINARY,
            "application/dicom": _BINARY,
        },
    },
    400: _refused("the query or the form cannot be read", "bad-query", "mask: Input should be 'png' or 'rle'"),
    401: NO_KEY,
    404: _refused("no model of that name", "unknown-model", "no model of that name here: default"),
    406: _refused("no such type of answer", "not-acceptable", "answers are application/json, image/png or ..."),
    408: _refused("the body came too slowly", "too-slow", "the body did not arrive within 30 s"),
    413: _refused("the body is too large", "body-too-large", "the body is larger than 268,435,456 bytes"),
    415: _refused(
        "the bytes are of no known type",
        NOT_AN_IMAGE,
        UNKNOWN_FORMAT,
    ),
    422: _refused("the film cannot be used", "truncated", "the PNG ends after 1,024 bytes, before its last chunk"),
    503: NO_MODEL,
}
REFUSAL_SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["reason", "detail", "request_id"],
            "properties": {name: {"type": "string"} for name in ("reason", "detail", "request_id")},
        }
    },
}

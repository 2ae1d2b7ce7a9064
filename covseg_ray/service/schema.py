"""The service's JSON as a client reads it."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Film:
    """A film's outline as the service gives it.

    ``mask`` is a 1-bit PNG of the film's own size, 1 = infection; ``contours`` are closed outlines in the film's pixels
    from its top left corner; ``infection_fraction`` and ``lung_fraction`` are shares of the whole film, 0 to 1.
    ``frontal`` says how much it is like frontal chest films, 0 to 1; below ``frontal_level`` it does not look like one.
    ``picture`` is there only where it was asked for; ``dicom`` says whether `Client.seg` can be.
    """

    height: int
    width: int
    frontal: float
    frontal_level: float
    infection_fraction: float
    lung_fraction: float | None
    severity: Mapping[str, Any] | None
    contours: tuple[tuple[tuple[float, float], ...], ...]
    mask: bytes
    picture: bytes | None
    dicom: bool
    input_sha256: str
    preprocess_version: str
    model: str
    model_id: str
    timing_ms: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Model:
    """A model that the service holds."""

    name: str
    model_id: str
    classes: tuple[str, ...]
    input_size: int
    resize: str
    architecture: str
    encoder: str
    version: str


def read_film(document: Any) -> Film:
    """Raises KeyError, TypeError or ValueError for what is no outlined film."""
    as_they_are = (
        *("height", "width", "frontal", "frontal_level", "severity"),
        *("dicom", "input_sha256", "preprocess_version", "timing_ms"),
    )
    lungs = document["lung_fraction"]
    picture = document.get("picture")
    return Film(
        **{name: document[name] for name in as_they_are},
        infection_fraction=float(document["infection_fraction"]),
        lung_fraction=None if lungs is None else float(lungs),
        contours=tuple(tuple((x, y) for x, y in outline) for outline in document["contours"]),
        mask=base64.b64decode(document["mask"]["data"], validate=True),
        picture=None if picture is None else base64.b64decode(picture, validate=True),
        model=document["model"]["name"],
        model_id=document["model"]["model_id"],
    )


def read_models(document: Any) -> tuple[Model, ...]:
    """Raises KeyError, TypeError or ValueError for what is no list of models."""
    names = ("name", "model_id", "input_size", "resize", "architecture", "encoder", "version")
    return tuple(
        Model(**{name: each[name] for name in names}, classes=tuple(each["classes"])) for each in document["models"]
    )

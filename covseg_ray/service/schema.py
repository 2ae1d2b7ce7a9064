"""The JSON documents of the endpoint: the server writes them, the client reads them, OpenAPI describes them."""

from __future__ import annotations

import base64
import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, WithJsonSchema

from covseg_ray.radiograph.geometry import Resize
from covseg_ray.radiograph.severity import Severity


def _decoded(value: Any) -> Any:
    return base64.b64decode(value, validate=True) if isinstance(value, str) else value


def _encoded(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


Base64 = Annotated[
    bytes,
    BeforeValidator(_decoded),
    PlainSerializer(_encoded, return_type=str),
    WithJsonSchema({"type": "string", "contentEncoding": "base64"}),
]
Point = tuple[float, float]


class Document(BaseModel):
    """A part of the endpoint's JSON. A client ignores keys that it does not know."""

    model_config = ConfigDict(frozen=True, protected_namespaces=())

    def to_json(self) -> bytes:
        """Without the keys that were not set."""
        return json.dumps(self.model_dump(mode="json", exclude_unset=True), separators=(",", ":")).encode()


class PngMask(Document):
    """The mask as a 1-bit PNG of the film's size, 1 = infection."""

    encoding: Literal["png"]
    data: Base64


class RleMask(Document):
    """The mask as COCO run lengths: column by column, starting with a run of 0; `size` is height and width."""

    encoding: Literal["coco-rle"]
    size: tuple[int, int]
    counts: list[int]


class ModelName(Document):
    name: str
    model_id: str


class Milliseconds(Document):
    """The server's time for one film, in milliseconds."""

    decode: float
    predict: float
    render: float


class Film(Document):
    """A segmented film."""

    status: Literal["ok"]
    name: str | None = Field(description="The file name where a form gave one.")
    height: int
    width: int
    frontal: float = Field(description="Similarity to frontal chest films, 0 to 1.")
    frontal_level: float = Field(
        description="Below this `frontal` the film does not look like a frontal chest film: do not rely on its mask."
    )
    infection_fraction: float = Field(description="Infected share of the whole film, 0 to 1.")
    lung_fraction: float | None = Field(
        description="Lung share of the whole film; null if the model has no lung class."
    )
    severity: Severity | None = Field(description="Infected share of the lung; null if the model has no lung class.")
    expected_iou: float | None = Field(
        default=None,
        description="Expected intersection over union of this mask and a reader's, 0 to 1, from the model's own "
        "probabilities; null if the model has no curve for it.",
    )
    contours: tuple[tuple[Point, ...], ...] = Field(
        description="Closed polygons around the infection, as x and y in pixels from the film's top left corner."
    )
    mask: Annotated[PngMask | RleMask, Field(discriminator="encoding")]
    dicom: bool = Field(description="Whether the film is a DICOM file, for which a DICOM SEG is available.")
    input_sha256: str
    preprocess_version: str
    model: ModelName
    timing_ms: Milliseconds
    picture: Base64 | None = Field(default=None, description="The film as an 8-bit grey PNG; only with `picture=true`.")


class PngFilm(Film):
    """A film as the client asks for it."""

    mask: PngMask


class RejectedFilm(Document):
    """A film of a form that cannot be used or, with `unlike=reject`, is not like a frontal chest film."""

    status: Literal["rejected"]
    name: str | None
    reason: str
    detail: str


class FilmList(Document):
    """The films of a form, in their order."""

    films: list[Annotated[Film | RejectedFilm, Field(discriminator="status")]]


class ModelInfo(ModelName):
    """A model of the endpoint: its name there, and what its bundle says of it."""

    classes: tuple[str, ...]
    input_size: int
    resize: Resize
    architecture: str
    encoder: str
    preprocess_version: str
    version: str


class ModelList(Document):
    """The first model is the default."""

    models: list[ModelInfo]


class Error(Document):
    reason: str = Field(description="A stable code.")
    detail: str
    request_id: str


class ErrorDocument(Document):
    error: Error

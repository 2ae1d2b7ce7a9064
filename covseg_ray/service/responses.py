"""What was found on a film, as JSON, PNG or DICOM SEG."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import asdict
from datetime import datetime, timezone
from typing import Any, Literal

import numpy as np
from fastapi import Request
from numpy.typing import NDArray

from covseg_ray.errors import DatasetError
from covseg_ray.radiograph.contours import polygons, run_lengths
from covseg_ray.radiograph.dicom.seg import encode_seg
from covseg_ray.radiograph.film import Rejected
from covseg_ray.radiograph.findings import measure
from covseg_ray.radiograph.frontal_check import LEVEL
from covseg_ray.radiograph.geometry import eight_bits, shrink
from covseg_ray.radiograph.masks import encode_png1, overlay
from covseg_ray.radiograph.png import encode_png
from covseg_ray.service.film_pipeline import Outlined
from covseg_ray.service.refusals import RefusedRequestError

JSON, PNG, DICOM = "application/json", "image/png", "application/dicom"
PICTURE_SIDE = 2048

MaskEncoding = Literal["png", "rle"]
View = Literal["mask", "overlay"]


def wanted_type(request: Request) -> str:
    """Of the types that can be had the one that ``Accept`` rates highest; JSON where it does not care. Raises 406."""
    ranges = [_media_range(part) for part in request.headers.get("accept", "*/*").split(",") if part.strip()]
    best = max((JSON, PNG, DICOM), key=lambda offered: _quality(offered, ranges))
    if ranges and not _quality(best, ranges):
        raise RefusedRequestError(406, "not-acceptable", f"answers are {JSON}, {PNG} or {DICOM}: ask for one by Accept")
    return best


def _media_range(text: str) -> tuple[str, float]:
    kind, *parameters = (part.strip().lower() for part in text.split(";"))
    weights = [parameter.removeprefix("q=") for parameter in parameters if parameter.startswith("q=")]
    try:
        return kind, float(weights[0]) if weights else 1.0
    except ValueError:
        return kind, 0.0


def _quality(offered: str, ranges: list[tuple[str, float]]) -> float:
    """RFC 9110, 12.5.1: the most exact range that fits decides."""
    for pattern in (offered, f"{offered.split('/')[0]}/*", "*/*"):
        fitting = [weight for kind, weight in ranges if kind == pattern]
        if fitting:
            return max(fitting)
    return 0.0


def as_json(
    found: Outlined | Rejected, name: str | None, encoding: MaskEncoding = "png", picture: bool = False
) -> dict[str, Any]:
    """The document of one film, all but the time that making it took."""
    if isinstance(found, Rejected):
        return {"status": "rejected", "name": name, "reason": found.reason, "detail": found.detail}
    infection_HW, measures = found.masks["infection"], measure(found.masks)
    height, width = infection_HW.shape
    document: dict[str, Any] = {
        "status": "ok",
        "name": name,
        "height": height,
        "width": width,
        "frontal": found.frontal,
        "frontal_level": LEVEL,
        **asdict(measures),
        "contours": [outline_P2.tolist() for outline_P2 in polygons(infection_HW)],
        "mask": _ENCODINGS[encoding](infection_HW),
        "dicom": found.is_dicom,
        "input_sha256": found.sha256,
        "preprocess_version": found.model.preprocess_version,
        "model": {"name": found.model.name, "model_id": found.model.model_id},
        "timing_ms": {stage: round(spent, 2) for stage, spent in found.milliseconds.items()},
    }
    if picture:
        document["picture"] = _text(encode_png(shrink(found.film.pixels, PICTURE_SIDE)))
    return document


def as_png(found: Outlined, view: View) -> bytes:
    """The mask, 1 bit a pixel, or the film with its contour in colour; at the film's own size both."""
    mask_HW = found.masks["infection"]
    return encode_png1(mask_HW) if view == "mask" else encode_png(overlay(eight_bits(found.film.pixels), mask_HW))


def as_dicom(found: Outlined, source: bytes) -> bytes:
    """A DICOM SEG for the DICOM film ``source``. Raises 422 where there can be none."""
    try:
        return encode_seg(source, found.masks, found.model.model_id, datetime.now(timezone.utc))
    except DatasetError as error:
        raise RefusedRequestError(422, "no-dicom-seg", str(error)) from None


def to_bytes(document: dict[str, Any]) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()


def _png(mask_HW: NDArray[np.uint8]) -> dict[str, Any]:
    return {"encoding": "png", "data": _text(encode_png1(mask_HW))}


def _rle(mask_HW: NDArray[np.uint8]) -> dict[str, Any]:
    return {"encoding": "coco-rle", "size": list(mask_HW.shape), "counts": run_lengths(mask_HW).tolist()}


_ENCODINGS: dict[MaskEncoding, Callable[[NDArray[np.uint8]], dict[str, Any]]] = {"png": _png, "rle": _rle}


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")

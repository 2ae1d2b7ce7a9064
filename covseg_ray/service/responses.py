"""A segmented film as a JSON document, PNG or DICOM SEG."""

from __future__ import annotations

import time
from datetime import datetime, timezone
from typing import Any, Literal

from fastapi import Request

from covseg_ray.errors import DatasetError
from covseg_ray.radiograph.contours import polygons, run_lengths
from covseg_ray.radiograph.dicom.seg import encode_seg
from covseg_ray.radiograph.film import Rejected
from covseg_ray.radiograph.findings import measure
from covseg_ray.radiograph.frontal_check import LEVEL
from covseg_ray.radiograph.geometry import eight_bits, shrink
from covseg_ray.radiograph.masks import encode_png, encode_png1, overlay
from covseg_ray.service.errors import RequestError
from covseg_ray.service.film_pipeline import SegmentedFilm
from covseg_ray.service.schema import Film, Milliseconds, ModelName, PngMask, RejectedFilm, RleMask

JSON, PNG, DICOM = "application/json", "image/png", "application/dicom"
PICTURE_SIDE = 2048

MaskEncoding = Literal["png", "rle"]
View = Literal["mask", "overlay"]


def negotiated_type(request: Request) -> str:
    """The media type that ``Accept`` rates highest; JSON if it rates none higher. Raises 406."""
    ranges = [_media_range(part) for part in request.headers.get("accept", "*/*").split(",") if part.strip()]
    best = max((JSON, PNG, DICOM), key=lambda offered: _quality(offered, ranges))
    if ranges and not _quality(best, ranges):
        raise RequestError(406, "not-acceptable", f"answers are {JSON}, {PNG} or {DICOM}: ask for one by Accept")
    return best


def _media_range(text: str) -> tuple[str, float]:
    media_type, *parameters = (part.strip().lower() for part in text.split(";"))
    weights = [parameter.removeprefix("q=") for parameter in parameters if parameter.startswith("q=")]
    try:
        return media_type, float(weights[0]) if weights else 1.0
    except ValueError:
        return media_type, 0.0


def _quality(offered: str, ranges: list[tuple[str, float]]) -> float:
    """RFC 9110, 12.5.1: the most specific range that matches decides."""
    for pattern in (offered, f"{offered.split('/')[0]}/*", "*/*"):
        weights = [weight for media_type, weight in ranges if media_type == pattern]
        if weights:
            return max(weights)
    return 0.0


def film_document(
    found: SegmentedFilm | Rejected, name: str | None, encoding: MaskEncoding, picture: bool
) -> Film | RejectedFilm:
    """The document of one film. Its values are this server's own, so they are not validated again."""
    if isinstance(found, Rejected):
        return RejectedFilm(status="rejected", name=name, reason=found.reason, detail=found.detail)
    start = time.perf_counter()
    infection_HW, measures = found.masks["infection"], measure(found.masks)
    height, width = infection_HW.shape
    contours = tuple(tuple(map(tuple, contour_P2.tolist())) for contour_P2 in polygons(infection_HW))
    mask: PngMask | RleMask
    if encoding == "png":
        mask = PngMask(encoding="png", data=encode_png1(infection_HW))
    else:
        runs = run_lengths(infection_HW).tolist()
        mask = RleMask.model_construct(encoding="coco-rle", size=(height, width), counts=runs)
    extra: dict[str, Any] = {"picture": encode_png(shrink(found.film.pixels, PICTURE_SIDE))} if picture else {}
    render_ms = 1000 * (time.perf_counter() - start)
    return Film.model_construct(
        status="ok",
        name=name,
        height=height,
        width=width,
        frontal=found.frontal,
        frontal_level=LEVEL,
        infection_fraction=measures.infection_fraction,
        lung_fraction=measures.lung_fraction,
        severity=measures.severity,
        expected_iou=found.expected_iou,
        contours=contours,
        mask=mask,
        dicom=found.is_dicom,
        input_sha256=found.sha256,
        preprocess_version=found.model.preprocess_version,
        model=ModelName(name=found.model.name, model_id=found.model.model_id),
        timing_ms=Milliseconds(
            decode=round(found.decode_ms, 2), predict=round(found.predict_ms, 2), render=round(render_ms, 2)
        ),
        **extra,
    )


def png_image(found: SegmentedFilm, view: View) -> bytes:
    """The mask, 1 bit a pixel, or the film with its contour in colour; both at the film's own size."""
    mask_HW = found.masks["infection"]
    return encode_png1(mask_HW) if view == "mask" else encode_png(overlay(eight_bits(found.film.pixels), mask_HW))


def dicom_seg(found: SegmentedFilm, source: bytes) -> bytes:
    """A DICOM SEG for the DICOM film ``source``. Raises 422 if the film allows none."""
    try:
        return encode_seg(source, found.masks, found.model.model_id, datetime.now(timezone.utc))
    except DatasetError as error:
        raise RequestError(422, "no-dicom-seg", str(error)) from None

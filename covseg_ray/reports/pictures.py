"""Films as pictures inside a page: PNG as ``data:`` URIs."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from covseg_ray.radiograph.findings import area_fraction
from covseg_ray.radiograph.masks import overlay
from covseg_ray.reports.film_result import FilmResult

LONGEST_SIDE = 320
TRUTH_COLOUR = (86, 180, 233)
PREDICTION_COLOUR = (255, 176, 32)


@dataclass(frozen=True)
class Picture:
    source: str
    alternative: str
    caption: str
    width: int
    height: int


def film(result: FilmResult) -> Picture:
    return _picture(result.image_HW, f"Chest film {result.image_id}", "Film")


def truth(result: FilmResult) -> Picture:
    share = area_fraction(result.truth_HW)
    pixels = overlay(result.image_HW, result.truth_HW, TRUTH_COLOUR)
    return _picture(pixels, f"{result.image_id} with the true mask: {share:.1%} of the film is infection", "Truth")


def prediction(result: FilmResult) -> Picture:
    share = area_fraction(result.predicted_HW)
    alternative = f"{result.image_id} with the predicted mask: {share:.1%} of the film is infection"
    return segmented(result.image_HW, result.predicted_HW, alternative)


def segmented(image_HW: NDArray[np.uint8], mask_HW: NDArray[np.uint8], alternative: str) -> Picture:
    """A film with its predicted mask."""
    return _picture(overlay(image_HW, mask_HW, PREDICTION_COLOUR), alternative, "Prediction")


def data_uri(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")


def _picture(pixels: NDArray[np.uint8], alternative: str, caption: str) -> Picture:
    image = Image.fromarray(pixels)
    image.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    width, height = image.size
    if image.mode == "RGB":  # a palette of greys and one colour loses nothing visible, and halves the page
        image = image.quantize(256, dither=Image.Dither.NONE)
    out = io.BytesIO()
    image.save(out, format="PNG", optimize=True)
    return Picture(data_uri(out.getvalue()), alternative, caption, width, height)

"""An overview of a dataset as one picture: a few films of every split and label, with the contours of their masks."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from covseg_ray.radiograph.masks import encode_png, overlay
from covseg_ray.storage.datasets.read import list_units, read_info, read_unit

FILMS_PER_ROW = 6
TILE = 224
CAPTION = 18
GAP = 6
INK, PAPER = (225, 230, 235), (16, 20, 24)


def contact_sheet(dataset_uri: str) -> bytes:
    """A PNG with one row of films for every split and label of the dataset, each with its ``image_id`` below.

    The films are the first of their row groups, whose order is that of a hash: an unbiased and stable choice.
    """
    info = read_info(dataset_uri)
    rows = [(split, label) for split, labels in info.splits.items() for label in labels]
    width = FILMS_PER_ROW * (TILE + GAP) + GAP
    row_height = TILE + 2 * CAPTION + GAP
    sheet = Image.new("RGB", (width, len(rows) * row_height + GAP), PAPER)
    draw = ImageDraw.Draw(sheet)
    for number, (split, label) in enumerate(rows):
        top = number * row_height + GAP
        draw.text((GAP, top), f"{split} / {label}: {info.splits[split][label]:,} films", fill=INK)
        for column, (image_id, tile_HW3) in enumerate(islice(_films(dataset_uri, split, label), FILMS_PER_ROW)):
            left = GAP + column * (TILE + GAP)
            sheet.paste(Image.fromarray(tile_HW3).resize((TILE, TILE)), (left, top + CAPTION))
            draw.text((left, top + CAPTION + TILE + 2), image_id[-36:], fill=INK)
    return encode_png(np.asarray(sheet))


def _films(dataset_uri: str, split: str, label: str) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    for unit in list_units(dataset_uri, split, [label]):
        films = read_unit(dataset_uri, unit)
        for image_id, image_HW, mask_HW in zip(films.image_ids, films.images_NHW, films.masks_NHW, strict=True):
            yield image_id, overlay(image_HW, mask_HW)

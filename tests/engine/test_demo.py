"""The demo's last step: films that the model has not seen, segmented at their own size."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from covseg_ray.cli.progress import SegmentProgress
from covseg_ray.engine.bundle_io import load_bundle
from covseg_ray.engine.demo import NEW_FILM_SEED, NEW_FILM_SIDE, NEW_FILMS, segment_new_films
from covseg_ray.radiograph.phantom import make_phantom
from covseg_ray.segmentation.inference.predictor import BatchPredictor

pytestmark = pytest.mark.usefixtures("ray_session")


@pytest.mark.full
def test_each_new_film_gets_its_mask_and_overlay(ready_bundle: str, tmp_path: Path) -> None:
    segmented = segment_new_films(ready_bundle, str(tmp_path), SegmentProgress(io.StringIO()))
    assert len(segmented) == NEW_FILMS
    predictor = BatchPredictor(load_bundle(ready_bundle))
    side = predictor.spec.input_size
    for index, overlay in enumerate(segmented):
        film_HW = make_phantom(NEW_FILM_SEED, index, NEW_FILM_SIDE).image
        mask_HW = np.asarray(Image.open(tmp_path / "segmented/masks" / f"film-{index}.png.png"))
        assert np.array_equal(np.asarray(Image.open(tmp_path / "films" / f"film-{index}.png")), film_HW)
        assert Image.open(io.BytesIO(Path(overlay).read_bytes())).size == (NEW_FILM_SIDE, NEW_FILM_SIDE)
        small_SS = np.asarray(Image.fromarray(film_HW).resize((side, side), Image.Resampling.BILINEAR))
        found_SS = predictor.predict(small_SS[None])[0] == predictor.spec.infection
        factor = NEW_FILM_SIDE // side
        assert np.array_equal(mask_HW > 0, np.kron(found_SS, np.ones((factor, factor), bool)))

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from dicom_films import encoded, film
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from PIL import Image
from places import SHARED

from covseg_ray.radiograph.decode import decode
from covseg_ray.radiograph.film import Radiograph, Rejected
from covseg_ray.radiograph.frontal_check import (
    FEATURES,
    LEVEL,
    FrontalCheck,
    Gaussian,
    edge_histogram,
    frontal,
    load_fitted,
    reject_unlike,
)
from covseg_ray.radiograph.geometry import standardise
from covseg_ray.radiograph.phantom import make_phantom

REAL_DICOM = SHARED / "data/dicom"
RNG = np.random.default_rng(3)


def edges_by_hand(picture_HW: NDArray[np.uint8]) -> NDArray[np.float64]:
    """The cells' histograms pixel by pixel, in double precision."""
    small_SS = np.asarray(Image.fromarray(picture_HW).resize((32, 32), Image.Resampling.BOX)).astype(float)
    sums = np.zeros((8, 8, 8))
    for row in range(32):
        for column in range(32):
            above, below = max(row - 1, 0), min(row + 1, 31)
            before, after = max(column - 1, 0), min(column + 1, 31)
            down = (small_SS[below, column] - small_SS[above, column]) / (below - above)
            right = (small_SS[row, after] - small_SS[row, before]) / (after - before)
            turn = np.degrees(np.arctan2(down, right)) / 45 % 8
            for direction in range(8):
                distance = min(abs(turn - direction), 8 - abs(turn - direction))
                sums[row // 4, column // 4, direction] += np.hypot(down, right) * max(0, 1 - distance)
    return np.sqrt(sums.ravel() / sums.sum() * 512)


def gaussian(seed: int, axes: int = 5) -> Gaussian:
    rng = np.random.default_rng(seed)
    axes_DK, _ = np.linalg.qr(rng.normal(size=(FEATURES, axes)))
    variances_K = rng.uniform(1, 3, axes).astype(np.float32)
    return Gaussian(rng.normal(size=FEATURES).astype(np.float32), axes_DK.astype(np.float32), variances_K, 0.4)


def likeness(picture_HW: NDArray[np.uint8] | NDArray[np.uint16], size: int = 256) -> float:
    return frontal(*standardise(picture_HW, size))


@pytest.mark.parametrize("shape", [(256, 256), (32, 32), (90, 70), (20, 300)])
def test_edges_are_histograms_of_directions_in_cells(shape: tuple[int, int]) -> None:
    picture_HW = RNG.integers(0, 256, shape, dtype=np.uint8)
    np.testing.assert_allclose(edge_histogram(picture_HW), edges_by_hand(picture_HW), atol=2e-3)
    film_HW = make_phantom(1, 0, 256).image
    np.testing.assert_allclose(edge_histogram(film_HW), edges_by_hand(film_HW), atol=2e-3)


@given(arrays(np.uint8, st.tuples(st.integers(1, 40), st.integers(1, 40))))
def test_edges_are_of_one_length_or_there_are_none(picture_HW: NDArray[np.uint8]) -> None:
    found_D = edge_histogram(picture_HW)
    assert found_D.dtype == np.float32
    assert float((found_D.astype(float) ** 2).mean()) == pytest.approx(1, abs=1e-3) or not found_D.any()


def test_edges_do_not_depend_on_brightness_and_contrast() -> None:
    film_HW = make_phantom(2, 0, 32).image // 4
    np.testing.assert_allclose(edge_histogram(film_HW), edge_histogram(film_HW * 3 + 20), atol=1e-3)


def test_the_distance_is_that_of_the_whole_covariance() -> None:
    """With axes K of variances v and r along every other direction it is A diag(v) A' + r (1 - A A')."""
    model, features_D = gaussian(1), RNG.normal(size=FEATURES).astype(np.float32)
    axes_DK = model.axes_DK.astype(float)
    covariance_DD = axes_DK @ np.diag(model.variances_K) @ axes_DK.T + 0.4 * (np.eye(FEATURES) - axes_DK @ axes_DK.T)
    apart_D = (features_D - model.mean_D).astype(float)
    assert model.distance(features_D) == pytest.approx(apart_D @ np.linalg.solve(covariance_DD, apart_D), rel=1e-3)


def test_likeness_is_the_share_of_held_out_films_at_least_as_unusual_the_film_counted_in() -> None:
    pictures = [RNG.integers(0, 256, (32, 32), dtype=np.uint8) for _ in range(9)]
    bare = FrontalCheck(gaussian(1), gaussian(2), np.empty(0, np.float32))
    unusual = [bare.nonconformity(picture_HW) for picture_HW in pictures]
    held_out_N = np.sort(np.array(unusual[:8], np.float32))
    judged = FrontalCheck(bare.films, bare.others, held_out_N)
    at_least = sum(each >= np.float32(unusual[8]) for each in held_out_N.tolist())
    assert judged.p_value(pictures[8]) == pytest.approx((at_least + 1) / 9)
    assert bare.p_value(pictures[0]) == 1.0


def test_both_resize_rules_and_every_square_see_about_the_same() -> None:
    tall_HW = np.asarray(Image.fromarray(make_phantom(1, 4, 512).image).resize((400, 512)))
    model = load_fitted()
    stretched_SS, letterboxed_SS = (standardise(tall_HW, 256, rule)[0] for rule in ("stretch", "letterbox"))
    _, placement = standardise(tall_HW, 256, "letterbox")
    assert letterboxed_SS[placement.inner].shape == (256, 200)
    seen = [
        model.nonconformity(letterboxed_SS[placement.inner]),
        *(model.nonconformity(standardise(tall_HW, n)[0]) for n in (64, 512)),
    ]
    assert seen == pytest.approx([model.nonconformity(stretched_SS)] * 3, abs=15)
    assert frontal(letterboxed_SS, placement) == model.p_value(letterboxed_SS[placement.inner])


def test_what_is_shipped_is_sound() -> None:
    model = load_fitted()
    assert len(model.held_out_N) == 932
    assert (np.diff(model.held_out_N) >= 0).all()
    for each in (model.films, model.others):
        count = each.axes_DK.shape[1]
        np.testing.assert_allclose(each.axes_DK.T @ each.axes_DK, np.eye(count), atol=2e-3)
        assert (each.variances_K[:-1] >= each.variances_K[1:]).all()
        assert each.variances_K[-1] > each.rest > 0


def test_a_phantom_passes_as_it_is_and_in_sixteen_bits_and_no_spoilt_one_does() -> None:
    film_HW = make_phantom(1, 3, 256).image
    assert likeness(film_HW) > 10 * LEVEL
    assert likeness(film_HW.astype(np.uint16) * 200) == pytest.approx(likeness(film_HW), abs=0.05)
    spoilt = [255 - film_HW, film_HW[::-1], np.rot90(film_HW), np.rot90(film_HW, 3), np.rot90(film_HW, 2)]
    spoilt.append(film_HW[128:, 128:])
    spoilt.append(RNG.integers(0, 256, (256, 256), dtype=np.uint8))
    spoilt += [np.full((256, 256), grey, np.uint8) for grey in (0, 255)]
    assert all(0 < likeness(np.ascontiguousarray(each)) < LEVEL for each in spoilt)


def test_a_film_below_the_level_has_a_reason_that_says_the_result() -> None:
    said = "frontal 0.0043, below 0.005: it does not look like a frontal chest film"
    assert reject_unlike(4 / 933) == Rejected("not-frontal", said)
    assert reject_unlike(LEVEL) is None
    assert reject_unlike(5 / 933) is None


def test_a_negative_dicom_film_is_judged_as_its_positive_twin() -> None:
    film_HW = make_phantom(1, 3, 200).image
    twins = [
        decode(encoded(film(film_HW))),
        decode(encoded(film(255 - film_HW, PhotometricInterpretation="MONOCHROME1"))),
    ]
    positive, negative = (likeness(each.pixels) for each in twins if isinstance(each, Radiograph))
    assert positive == negative > LEVEL


@pytest.mark.skipif(not REAL_DICOM.exists(), reason="the DICOM films are not on this machine")
@pytest.mark.parametrize(("names", "passes"), [("chest*", True), ("hip*", False), ("leg*", False)])
def test_real_chest_films_pass_and_legs_do_not(names: str, passes: bool) -> None:
    paths = sorted(REAL_DICOM.glob(names))
    assert paths
    for path in paths:
        found = decode(path.read_bytes())
        assert isinstance(found, Radiograph)
        assert (likeness(found.pixels) >= LEVEL) == passes, path.name


def test_of_films_that_had_no_part_in_it_few_are_flagged_and_of_spoilt_ones_nearly_all(real_films: Path) -> None:
    paths = sorted((real_films / "Infection Segmentation Data/Val").glob("*/images/*.png"))[::4]
    films = [np.asarray(Image.open(path).convert("L")) for path in paths]
    assert len(films) == 233
    assert np.mean([likeness(film_HW) < LEVEL for film_HW in films]) < 0.02
    for spoil in (lambda each: 255 - each, np.rot90, np.flipud):
        assert np.mean([likeness(np.ascontiguousarray(spoil(film_HW))) < LEVEL for film_HW in films]) > 0.97

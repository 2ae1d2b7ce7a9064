from __future__ import annotations

import io
import struct
import warnings
import zlib

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from places import SHARED

from covseg_ray.radiograph.decode import decode
from covseg_ray.radiograph.film import Limits, Radiograph, Rejected

RNG = np.random.default_rng(7)
GREY_HW = RNG.integers(0, 256, (23, 31), dtype=np.uint8)
DEEP_HW = RNG.integers(0, 65536, (23, 31), dtype=np.uint16)
RGB_HW3 = RNG.integers(0, 256, (23, 31, 3), dtype=np.uint8)


def encoded(image: Image.Image | NDArray[np.generic], fmt: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(buffer, fmt, **options)
    return buffer.getvalue()


def pixels(data: bytes) -> NDArray[np.generic]:
    film = decode(data)
    assert isinstance(film, Radiograph), film
    assert film.spacing_mm is None
    return film.pixels


def refused(data: bytes, limits: Limits | None = None) -> Rejected:
    film = decode(data, limits or Limits())
    assert isinstance(film, Rejected)
    assert "\n" not in film.detail
    return film


def luma(rgb_HW3: NDArray[np.uint8]) -> NDArray[np.float64]:
    """ITU-R BT.601, by hand."""
    return rgb_HW3.astype(float) @ np.array([0.299, 0.587, 0.114])


def hand_made_png(pixels_HW: NDArray[np.generic], depth: int) -> bytes:
    """A grey PNG by the letter of the specification, without Pillow."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    rows = b"".join(b"\0" + row.astype(f">u{depth // 8}").tobytes() for row in pixels_HW)
    header = struct.pack(">IIBBBBB", pixels_HW.shape[1], pixels_HW.shape[0], depth, 0, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.mark.parametrize(("pixels_HW", "depth"), [(GREY_HW, 8), (DEEP_HW, 16)])
def test_grey_png_keeps_every_bit(pixels_HW: NDArray[np.generic], depth: int) -> None:
    film = pixels(hand_made_png(pixels_HW, depth))
    assert film.dtype == pixels_HW.dtype
    assert film.flags.writeable
    np.testing.assert_array_equal(film, pixels_HW)


def test_one_bit_becomes_black_and_white() -> None:
    for fmt in ("PNG", "TIFF"):
        np.testing.assert_array_equal(pixels(encoded(GREY_HW > 127, fmt)), np.where(GREY_HW > 127, 255, 0))


@pytest.mark.parametrize("compression", [None, "tiff_lzw", "tiff_adobe_deflate"])
@pytest.mark.parametrize("pixels_HW", [GREY_HW, DEEP_HW])
def test_tiff_keeps_every_bit(pixels_HW: NDArray[np.generic], compression: str | None) -> None:
    film = pixels(encoded(pixels_HW, "TIFF", compression=compression))
    assert film.dtype == pixels_HW.dtype
    np.testing.assert_array_equal(film, pixels_HW)


def hand_made_tiff(pixels_HW: NDArray[np.generic], order: str, photometric: int) -> bytes:
    """An uncompressed one-strip TIFF 6.0 in either byte order, without Pillow."""
    strip = pixels_HW.astype(pixels_HW.dtype.newbyteorder(order)).tobytes()
    height, width = pixels_HW.shape
    bits = pixels_HW.dtype.itemsize * 8
    tags = [(256, width), (257, height), (258, bits), (259, 1), (262, photometric), (273, 8), (277, 1), (278, height)]
    tags.append((279, len(strip)))
    entries = b"".join(struct.pack(order + "HHII", tag, 4, 1, value) for tag, value in tags)
    head = (b"II" if order == "<" else b"MM") + struct.pack(order + "HI", 42, 8 + len(strip))
    return head + strip + struct.pack(order + "H", len(tags)) + entries + struct.pack(order + "I", 0)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("pixels_HW", [GREY_HW, DEEP_HW])
def test_tiff_of_either_byte_order(pixels_HW: NDArray[np.generic], order: str) -> None:
    np.testing.assert_array_equal(pixels(hand_made_tiff(pixels_HW, order, photometric=1)), pixels_HW)


@pytest.mark.parametrize(("pixels_HW", "order"), [(GREY_HW, "<"), (GREY_HW, ">"), (DEEP_HW, "<")])
def test_white_is_zero_is_inverted(pixels_HW: NDArray[np.generic], order: str) -> None:
    top = np.iinfo(pixels_HW.dtype).max
    np.testing.assert_array_equal(pixels(hand_made_tiff(pixels_HW, order, photometric=0)), top - pixels_HW)


def test_a_layout_that_pillow_cannot_read_is_unsupported() -> None:
    assert refused(hand_made_tiff(DEEP_HW, ">", photometric=0)).reason == "unsupported"


@pytest.mark.parametrize("fmt", ["PNG", "TIFF"])
def test_colour_becomes_luma_and_alpha_is_dropped(fmt: str) -> None:
    alpha_HW1 = RNG.integers(0, 256, (23, 31, 1), dtype=np.uint8)
    for image in (RGB_HW3, np.concatenate([RGB_HW3, alpha_HW1], axis=2)):
        np.testing.assert_allclose(pixels(encoded(image, fmt)), luma(RGB_HW3), atol=1)
    grey_alpha = Image.merge("LA", (Image.fromarray(GREY_HW), Image.fromarray(alpha_HW1[..., 0])))
    np.testing.assert_array_equal(pixels(encoded(grey_alpha, fmt)), GREY_HW)


def test_palette_is_looked_up() -> None:
    palette_N3 = RNG.integers(0, 256, (256, 3), dtype=np.uint8)
    image = Image.fromarray(GREY_HW).copy()
    image.putpalette(palette_N3.tobytes())
    for options in ({}, {"transparency": 5}):
        np.testing.assert_allclose(pixels(encoded(image, "PNG", **options)), luma(palette_N3)[GREY_HW], atol=1)


def test_jpeg_grey_colour_and_cmyk_agree() -> None:
    smooth = np.add.outer(np.arange(64), np.arange(64)).astype(np.uint8)
    grey = Image.fromarray(smooth)
    for mode in ("L", "RGB", "CMYK"):
        film = pixels(encoded(grey.convert("RGB").convert(mode), "JPEG", quality=100))
        np.testing.assert_allclose(film, smooth, atol=4)


@pytest.mark.parametrize("fmt", ["PNG", "TIFF", "JPEG"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation: int, fmt: str) -> None:
    upright = np.zeros((32, 16), np.uint8)
    upright[:8, :8] = 250  # one bright corner at the top left of the upright film
    # How a camera stores the upright film under each orientation (EXIF 2.3, tag 274), in NumPy.
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.T,
        6: np.rot90(upright, 1),
        7: upright[::-1, ::-1].T,
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    film = pixels(encoded(np.ascontiguousarray(stored), fmt, exif=exif))
    assert film.shape == upright.shape
    np.testing.assert_allclose(film, upright, atol=3)


def test_32_bits_pass_when_they_are_whole_numbers_of_16() -> None:
    for dtype in (np.int32, np.float32):
        np.testing.assert_array_equal(pixels(encoded(DEEP_HW.astype(dtype), "TIFF")), DEEP_HW)
    for wrong in (np.int32(70000), np.int32(-1), np.float32(0.5), np.float32(np.nan), np.float32(np.inf)):
        film = np.full((4, 4), 9, wrong.dtype)
        film[2, 2] = wrong
        assert refused(encoded(film, "TIFF")).reason == "unsupported", wrong


def test_what_is_no_film_is_named() -> None:
    assert refused(b"").reason == "empty"
    assert refused(b"<!DOCTYPE html><html><body>Please sign in</body></html>").reason == "not-an-image"
    assert refused(encoded(GREY_HW, "GIF")).reason == "not-an-image"
    assert refused(encoded(GREY_HW, "BMP")).reason == "not-an-image"
    assert refused(encoded(Image.new("LAB", (4, 4)), "TIFF")).reason == "unsupported"


@pytest.mark.parametrize("fmt", ["PNG", "TIFF"])
def test_several_frames_are_refused(fmt: str) -> None:
    pages = [Image.fromarray(GREY_HW), Image.fromarray(255 - GREY_HW)]
    data = encoded(pages[0], fmt, save_all=True, append_images=pages[1:])
    assert refused(data).reason == "unsupported"
    assert "frames" in refused(data).detail


@pytest.mark.parametrize("fmt", ["PNG", "JPEG"])
@pytest.mark.parametrize("share", [0.05, 0.3, 0.6, 0.9, 0.99])
def test_truncated(fmt: str, share: float) -> None:
    data = encoded(RNG.integers(0, 256, (64, 64), dtype=np.uint8), fmt)
    assert refused(data[: int(len(data) * share)]).reason == "truncated"


def test_tiff_without_its_directory_is_truncated() -> None:
    data = hand_made_tiff(GREY_HW, "<", 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert refused(data[: len(data) // 2]).reason == "truncated"


def test_every_flipped_bit_of_a_png_is_noticed() -> None:
    data = encoded(GREY_HW, "PNG")
    for position in range(8, len(data), 17):
        changed = bytearray(data)
        changed[position] ^= 1 << (position % 8)
        assert refused(bytes(changed)).reason in ("corrupt", "truncated", "too-large"), position


def test_too_many_pixels_are_refused_from_the_header() -> None:
    data = encoded(Image.new("1", (13_000, 13_000)), "PNG")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        film = refused(data)
    assert film.reason == "too-large"
    assert "13000 x 13000" in film.detail
    assert "169,000,000" in film.detail
    assert "100,000,000" in film.detail
    assert refused(data[:200]).reason == "too-large"


def test_limits_are_inclusive() -> None:
    data = encoded(GREY_HW, "PNG")
    assert isinstance(decode(data, Limits(len(data), GREY_HW.size)), Radiograph)
    assert refused(data, Limits(max_bytes=len(data) - 1)).reason == "too-large"
    assert refused(data, Limits(max_pixels=GREY_HW.size - 1)).reason == "too-large"


def test_published_films_decode_as_pillow_reads_them() -> None:
    folder = SHARED / "data/covid-qu-ex"
    if not folder.is_dir():
        pytest.skip(f"no published films at {folder}")
    paths = sorted(folder.glob("*/Val/*/images/*.png"))[::40]
    assert len(paths) > 20
    for path in paths:
        np.testing.assert_array_equal(pixels(path.read_bytes()), np.asarray(Image.open(path)))

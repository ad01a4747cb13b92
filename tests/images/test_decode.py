"""Decoding: formats, modes, orientation and frames, with pixels that can be told apart."""

from __future__ import annotations

import io
import struct
from typing import Any

import numpy as np
import pytest
from images.pictures import BLUE, GREEN, RED, WHITE, corners, decode, encoded, exif_of, four_colours, tiff, turned
from PIL import Image, features

LOSSLESS = {"lossless": True}


def near(pixels: Any, expected: Any, most: float) -> bool:
    return bool(np.abs(np.array(pixels, float) - expected).max() <= most)


# Formats


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        *((kind, {}) for kind in ("PNG", "BMP", "TIFF", "PPM", "GIF", "JPEG2000")),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("WEBP", LOSSLESS),
    ],
)
def test_lossless_formats_keep_every_pixel(kind: str, options: dict[str, Any]) -> None:
    result = decode(encoded(four_colours(64, 32), kind, **options))
    assert result.mode == "RGB"
    assert np.array_equal(np.asarray(result), np.asarray(four_colours(64, 32)))


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "AVIF"])
def test_lossy_formats_keep_the_colours(kind: str) -> None:
    if kind == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    result = decode(encoded(four_colours(64, 32), kind, quality=95))
    assert result.size == (64, 32)
    assert near(corners(result), [RED, GREEN, BLUE, WHITE], 12)


# Orientation


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(("kind", "options"), [("PNG", {}), ("WEBP", LOSSLESS), ("JPEG", {"quality": 95})])
def test_every_orientation_is_turned_upright_when_asked(orientation: int, kind: str, options: dict[str, Any]) -> None:
    stored = turned(orientation)
    stored = stored.resize((stored.width * 32, stored.height * 32), Image.Resampling.NEAREST)
    data = encoded(stored, kind, exif=exif_of(orientation), **options)
    upright, as_stored = decode(data), decode(data, exif_orientation=False)
    most = 12 if kind == "JPEG" else 0
    assert upright.size == (128, 64)
    assert near(corners(upright), corners(four_colours()), most)
    assert as_stored.size == stored.size
    assert near(corners(as_stored), corners(stored), most)
    assert not as_stored.getexif()  # nobody can turn it twice


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
@pytest.mark.parametrize("exif", [exif_of(99), b"Exif\0\0MM\0*\xff\xff\xff\xffrubbish"])
def test_damaged_exif_does_not_cost_the_picture(exif: Any) -> None:
    result = decode(encoded(four_colours(64, 32), "JPEG", quality=95, exif=exif))
    assert near(corners(result), [RED, GREEN, BLUE, WHITE], 12)


# Alpha


def half_transparent(mode: str) -> Image.Image:
    """Left: opaque dark. Right: dark again, but fully transparent. Dark is (10, 20, 30), or 10 where grey."""
    dark = (10, 20, 30) if mode == "RGBA" else (10,)
    image = Image.new(mode, (4, 2), (*dark, 255))
    image.paste((*dark, 0), (2, 0, 4, 2))
    return image


def palette_image() -> Image.Image:
    """Left index 1 = (10, 20, 30), right index 2 = (40, 50, 60)."""
    image = Image.new("P", (4, 2), 1)
    image.putpalette([0, 0, 0, 10, 20, 30, 40, 50, 60])
    image.paste(2, (2, 0, 4, 2))
    return image


LEFT, RIGHT = (10, 20, 30), (40, 50, 60)


@pytest.mark.parametrize(
    ("data", "left", "right", "right_on_white"),
    [
        (encoded(half_transparent("RGBA"), "PNG"), LEFT, LEFT, WHITE),
        (encoded(half_transparent("LA"), "PNG"), (10, 10, 10), (10, 10, 10), WHITE),
        (encoded(palette_image(), "PNG", transparency=2), LEFT, RIGHT, WHITE),
        (encoded(palette_image(), "PNG", transparency=bytes([255, 255, 0])), LEFT, RIGHT, WHITE),
        (encoded(palette_image(), "GIF", transparency=2), LEFT, RIGHT, WHITE),
        (encoded(palette_image(), "PNG"), LEFT, RIGHT, RIGHT),
    ],
)
def test_alpha_is_dropped_or_laid_on_white(data: bytes, left: Any, right: Any, right_on_white: Any) -> None:
    assert corners(decode(data, alpha="drop")) == [left, right, left, right]
    assert corners(decode(data, alpha="white")) == [left, right_on_white, left, right_on_white]


@pytest.mark.parametrize(("mode", "colour", "shown"), [("RGB", RED, RED), ("L", 7, (7, 7, 7))])
def test_one_colour_marked_transparent(mode: str, colour: Any, shown: tuple[int, int, int]) -> None:
    data = encoded(Image.new(mode, (2, 2), colour), "PNG", transparency=colour)
    assert corners(decode(data, alpha="white")) == [WHITE] * 4
    assert corners(decode(data, alpha="drop")) == [shown] * 4


def test_half_transparent_pixels_are_mixed_with_white() -> None:
    data = encoded(Image.new("RGBA", (2, 2), (0, 100, 200, 128)), "PNG")
    assert near(decode(data).getpixel((0, 0)), [255 + (value - 255) * 128 / 255 for value in (0, 100, 200)], 1)
    assert corners(decode(data, alpha="drop")) == [(0, 100, 200)] * 4


def test_alpha_of_premultiplied_tiff() -> None:
    premultiplied = np.broadcast_to(np.array([50, 25, 0, 128], dtype=np.uint8), (2, 2, 4))
    data = encoded(Image.fromarray(premultiplied), "TIFF")
    extra_sample = struct.pack("<HHI", 338, 3, 1)
    assert data.count(extra_sample + b"\2") == 1  # written as plain alpha
    data = data.replace(extra_sample + b"\2", extra_sample + b"\1")
    assert near(decode(data, alpha="drop").getpixel((0, 0)), [100, 50, 0], 2)
    assert near(decode(data).getpixel((0, 0)), [255 + (value - 255) * 128 / 255 for value in (100, 50, 0)], 2)


# Depths and colour spaces


@pytest.mark.parametrize(
    ("values", "dtype", "kind", "expected"),
    [
        ([0, 257, 128 * 257, 255, 40_000, 65_535], np.uint16, "PNG", [0, 1, 128, 1, 156, 255]),
        ([0, 257, 128 * 257, 255, 40_000, 65_535], np.uint16, "TIFF", [0, 1, 128, 1, 156, 255]),
        ([0, 32_896, 65_535], np.int32, "TIFF", [0, 128, 255]),  # 16-bit values
        ([-1000, 0, 99_000], np.int32, "TIFF", [0, 3, 255]),  # stretched
        ([0.0, 0.5, 1.0], np.float32, "TIFF", [0, 128, 255]),  # shares of white
        ([0.0, 100.0, 255.0], np.float32, "TIFF", [0, 100, 255]),  # 8-bit values
        ([-10.0, 0.0, 190.0], np.float32, "TIFF", [0, 13, 255]),  # stretched
        ([0.0, 1000.0, 4000.0], np.float32, "TIFF", [0, 64, 255]),
        ([float("nan"), 0.5, float("inf")], np.float32, "TIFF", [0, 128, 0]),
        ([float("nan")] * 3, np.float32, "TIFF", [0, 0, 0]),
    ],
)
def test_grey_of_any_depth_is_scaled(values: list[float], dtype: Any, kind: str, expected: list[int]) -> None:
    result = np.asarray(decode(encoded(Image.fromarray(np.array([values], dtype=dtype)), kind)))
    assert result[0, :, 0].tolist() == expected
    assert (result == result[..., :1]).all()


def test_big_endian_16_bit_tiff() -> None:
    values = np.array([[0, 128 * 257, 65_535]], dtype=">u2")
    data = tiff(">", width=3, height=1, bits=16, sample_format=1, pixels=values.tobytes())
    assert np.asarray(decode(data))[0, :, 0].tolist() == [0, 128, 255]


@pytest.mark.parametrize(
    ("kind", "mode", "colour", "expected"),
    [
        ("JPEG", "CMYK", (0, 255, 255, 0), RED),  # written as Adobe does: inverted, with the Adobe marker
        ("TIFF", "CMYK", (0, 255, 255, 0), RED),
        ("TIFF", "LAB", (128, 128, 128), (119, 119, 119)),  # L* = 50, neutral: sRGB 119
    ],
)
def test_other_colour_spaces(kind: str, mode: str, colour: tuple[int, ...], expected: tuple[int, ...]) -> None:
    assert near(decode(encoded(Image.new(mode, (16, 16), colour), kind)).getpixel((8, 8)), expected, 5)


# Several frames


@pytest.mark.parametrize(
    ("kind", "options"), [("WEBP", LOSSLESS), *((kind, {}) for kind in ("GIF", "PNG", "TIFF", "MPO"))]
)
def test_of_several_frames_the_first_is_taken(kind: str, options: dict[str, Any]) -> None:
    first, second = Image.new("RGB", (16, 16), RED), Image.new("RGB", (16, 16), BLUE)
    data = encoded(first, kind, save_all=True, append_images=[second], **options)
    with Image.open(io.BytesIO(data)) as file:
        assert getattr(file, "n_frames", 1) == 2
    assert near(decode(data).getpixel((8, 8)), RED, 5)

"""Decoding: formats, modes, orientation and frames, with pixels that can be told apart."""

from __future__ import annotations

import io
import struct
from typing import Any

import numpy as np
import pytest
from images.pictures import (
    BLACK,
    BLUE,
    GREEN,
    RED,
    WHITE,
    corners,
    decode,
    encoded,
    exif_of,
    four_colours,
    images,
    tiff,
    turned,
)
from PIL import Image, features

# Formats


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("PNG", {}),
        ("BMP", {}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("PPM", {}),
        ("GIF", {}),
        ("WEBP", {"lossless": True}),
        ("JPEG2000", {}),
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
    assert np.abs(np.array(corners(result), int) - [RED, GREEN, BLUE, WHITE]).max() < 12


# Orientation


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(("kind", "options"), [("PNG", {}), ("WEBP", {"lossless": True})])
def test_every_orientation_is_turned_upright_when_asked(orientation: int, kind: str, options: dict[str, Any]) -> None:
    stored = turned(orientation)
    data = encoded(stored, kind, exif=exif_of(orientation), **options)
    assert np.array_equal(np.asarray(decode(data)), np.asarray(four_colours()))
    as_stored = decode(data, exif_orientation=False)
    assert np.array_equal(np.asarray(as_stored), np.asarray(stored))
    assert not as_stored.getexif()  # nobody can turn it twice


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_of_jpeg(orientation: int) -> None:
    stored = turned(orientation)
    big = stored.resize((stored.width * 32, stored.height * 32), Image.Resampling.NEAREST)
    result = decode(encoded(big, "JPEG", quality=95, exif=exif_of(orientation)))
    assert result.size == (128, 64)
    assert np.abs(np.array(corners(result), int) - [RED, GREEN, BLUE, WHITE]).max() < 12
    assert decode(encoded(big, "JPEG", exif=exif_of(orientation)), exif_orientation=False).size == big.size


def test_orientation_out_of_range_is_ignored() -> None:
    data = encoded(four_colours(), "PNG", exif=exif_of(99))
    assert np.array_equal(np.asarray(decode(data)), np.asarray(four_colours()))


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_damaged_exif_does_not_cost_the_picture() -> None:
    data = encoded(four_colours(64, 32), "JPEG", quality=95, exif=b"Exif\0\0MM\0*\xff\xff\xff\xffrubbish")
    assert decode(data).size == (64, 32)


# Alpha


def half_transparent(mode: str) -> Image.Image:
    """Left: opaque dark. Right: dark again, but fully transparent. Dark is (10, 20, 30), or 10 where grey."""
    if mode == "RGBA":
        image = Image.new(mode, (4, 2), (10, 20, 30, 255))
        image.paste((10, 20, 30, 0), (2, 0, 4, 2))
    else:
        image = Image.new(mode, (4, 2), (10, 255))
        image.paste((10, 0), (2, 0, 4, 2))
    return image


@pytest.mark.parametrize(("mode", "dark"), [("RGBA", (10, 20, 30)), ("LA", (10, 10, 10))])
def test_alpha_is_dropped_or_laid_on_white(mode: str, dark: tuple[int, int, int]) -> None:
    data = encoded(half_transparent(mode), "PNG")
    assert corners(decode(data, alpha="drop")) == [dark, dark, dark, dark]
    assert corners(decode(data, alpha="white")) == [dark, WHITE, dark, WHITE]


def test_dropping_alpha_is_what_pillow_does() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 4), dtype=np.uint8)
    image = Image.fromarray(pixels)
    assert np.array_equal(np.asarray(decode(encoded(image, "PNG"), alpha="drop")), np.asarray(image.convert("RGB")))


def test_half_transparent_pixels_are_mixed_with_white() -> None:
    data = encoded(Image.new("RGBA", (2, 2), (0, 100, 200, 128)), "PNG")
    expected = [255 + (value - 255) * 128 / 255 for value in (0, 100, 200)]
    assert np.abs(np.array(decode(data).getpixel((0, 0))) - expected).max() <= 1


def test_alpha_of_premultiplied_tiff() -> None:
    premultiplied = np.broadcast_to(np.array([50, 25, 0, 128], dtype=np.uint8), (2, 2, 4))
    data = encoded(Image.fromarray(premultiplied), "TIFF")
    extra_sample = struct.pack("<HHI", 338, 3, 1)
    assert data.count(extra_sample + b"\2") == 1  # written as plain alpha
    data = data.replace(extra_sample + b"\2", extra_sample + b"\1")
    assert np.abs(np.array(decode(data, alpha="drop").getpixel((0, 0)), int) - [100, 50, 0]).max() <= 2
    expected = [255 + (value - 255) * 128 / 255 for value in (100, 50, 0)]
    assert np.abs(np.array(decode(data, alpha="white").getpixel((0, 0))) - expected).max() <= 2


@pytest.mark.parametrize("mode", ["La", "PA"])
def test_rare_alpha_modes_become_rgb(mode: str) -> None:
    image = half_transparent("LA")
    image = image.convert("La") if mode == "La" else Image.new("P", (4, 2), 1).convert("PA")
    assert images._to_rgb(image, "white").mode == images._to_rgb(image, "drop").mode == "RGB"
    if mode == "La":
        assert corners(images._to_rgb(image, "white")) == [(10, 10, 10), WHITE, (10, 10, 10), WHITE]


def palette_image() -> Image.Image:
    """Left index 1 = (10, 20, 30), right index 2 = (40, 50, 60)."""
    image = Image.new("P", (4, 2), 1)
    image.putpalette([0, 0, 0, 10, 20, 30, 40, 50, 60])
    image.paste(2, (2, 0, 4, 2))
    return image


@pytest.mark.parametrize("transparency", [2, bytes([255, 255, 0])])
def test_palette_with_transparency(transparency: int | bytes) -> None:
    data = encoded(palette_image(), "PNG", transparency=transparency)
    left, right = (10, 20, 30), (40, 50, 60)
    assert corners(decode(data, alpha="drop")) == [left, right, left, right]
    assert corners(decode(data, alpha="white")) == [left, WHITE, left, WHITE]


def test_palette_without_transparency() -> None:
    left, right = (10, 20, 30), (40, 50, 60)
    assert corners(decode(encoded(palette_image(), "PNG"))) == [left, right, left, right]


@pytest.mark.parametrize(("mode", "colour", "shown"), [("RGB", RED, RED), ("L", 7, (7, 7, 7))])
def test_one_colour_marked_transparent(mode: str, colour: Any, shown: tuple[int, int, int]) -> None:
    data = encoded(Image.new(mode, (2, 2), colour), "PNG", transparency=colour)
    assert corners(decode(data, alpha="white")) == [WHITE] * 4
    assert corners(decode(data, alpha="drop")) == [shown] * 4


# Depths and colour spaces


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bit_grey_is_scaled(kind: str) -> None:
    values = np.array([[0, 257, 128 * 257], [255, 40_000, 65_535]], dtype=np.uint16)
    result = np.asarray(decode(encoded(Image.fromarray(values), kind)))
    assert result[..., 0].tolist() == [[0, 1, 128], [1, 156, 255]]
    assert (result == result[..., :1]).all()


def test_big_endian_16_bit_tiff() -> None:
    values = np.array([[0, 128 * 257, 65_535]], dtype=">u2")
    data = tiff(">", width=3, height=1, bits=16, sample_format=1, pixels=values.tobytes())
    assert np.asarray(decode(data))[0, :, 0].tolist() == [0, 128, 255]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.0, 0.5, 1.0], [0, 128, 255]),  # shares of white
        ([0.0, 100.0, 255.0], [0, 100, 255]),  # 8-bit values
        ([-10.0, 0.0, 190.0], [0, 13, 255]),  # stretched
        ([0.0, 1000.0, 4000.0], [0, 64, 255]),
        ([float("nan"), 0.5, float("inf")], [0, 128, 0]),
        ([float("nan")] * 3, [0, 0, 0]),
    ],
)
def test_float_tiff(values: list[float], expected: list[int]) -> None:
    data = encoded(Image.fromarray(np.array([values], dtype=np.float32)), "TIFF")
    assert np.asarray(decode(data))[0, :, 0].tolist() == expected


def test_32_bit_integer_tiff() -> None:
    as_16_bit = encoded(Image.fromarray(np.array([[0, 32_896, 65_535]], dtype=np.int32)), "TIFF")
    assert np.asarray(decode(as_16_bit))[0, :, 0].tolist() == [0, 128, 255]
    stretched = encoded(Image.fromarray(np.array([[-1000, 0, 99_000]], dtype=np.int32)), "TIFF")
    assert np.asarray(decode(stretched))[0, :, 0].tolist() == [0, 3, 255]


def test_1_bit() -> None:
    image = Image.new("1", (4, 2), 0)
    image.paste(1, (2, 0, 4, 2))
    for kind in ("PNG", "TIFF", "BMP", "PPM"):
        assert corners(decode(encoded(image, kind))) == [BLACK, WHITE, BLACK, WHITE]


def test_grey() -> None:
    assert corners(decode(encoded(Image.new("L", (2, 2), 77), "PNG"))) == [(77, 77, 77)] * 4


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_cmyk(kind: str) -> None:
    # Pillow writes CMYK JPEG files as Adobe does: inverted, with the Adobe marker.
    data = encoded(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), kind)
    assert np.abs(np.array(decode(data).getpixel((8, 8)), int) - RED).max() < 6


def test_adobe_ycck_jpeg() -> None:
    """The same stored numbers, but marked as YCCK: the first three are luma and chroma of 255 - inverted inks."""
    plain = encoded(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG", quality=100)
    place = plain.index(b"Adobe\0")
    assert plain[place + 11] == 0  # transform: none
    # Stored are the inverted inks (255, 0, 0), now read as luma 255 and both chromas -128; no black ink.
    y, cb, cr = 255.0, -128.0, -128.0
    inks = np.clip((y + 1.402 * cr, y - 0.344136 * cb - 0.714136 * cr, y + 1.772 * cb), 0, 255)
    expected = 255 - inks
    marked = plain[: place + 11] + b"\2" + plain[place + 12 :]
    assert np.abs(np.array(decode(marked).getpixel((8, 8)), int) - expected).max() < 6


def test_lab_tiff() -> None:
    data = encoded(Image.new("LAB", (2, 2), (128, 128, 128)), "TIFF")  # L* = 50, neutral: sRGB 119
    assert np.abs(np.array(decode(data).getpixel((0, 0)), int) - 119).max() < 4


# Several frames


@pytest.mark.parametrize(
    ("kind", "options"), [("GIF", {}), ("WEBP", {"lossless": True}), ("PNG", {}), ("TIFF", {}), ("MPO", {})]
)
def test_of_several_frames_the_first_is_taken(kind: str, options: dict[str, Any]) -> None:
    first, second = Image.new("RGB", (16, 16), RED), Image.new("RGB", (16, 16), BLUE)
    data = encoded(first, kind, save_all=True, append_images=[second], **options)
    with Image.open(io.BytesIO(data)) as file:
        assert getattr(file, "n_frames", 1) == 2
    assert np.abs(np.array(decode(data).getpixel((8, 8)), int) - RED).max() < 6


def test_transparent_gif() -> None:
    data = encoded(palette_image(), "GIF", transparency=2)
    left, right = (10, 20, 30), (40, 50, 60)
    assert corners(decode(data, alpha="white")) == [left, WHITE, left, WHITE]
    assert corners(decode(data, alpha="drop")) == [left, right, left, right]

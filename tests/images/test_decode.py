"""Decoding: modes and formats made here with Pillow, with pixels that can be told apart; limits; damage; threads."""

from __future__ import annotations

import importlib
import io
import struct
import threading
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, features

from ram_backend.errors import ImageError, ImageTooLarge, ImageUnreadable

images = importlib.import_module("ram_backend.images.decode")  # the module: its namesake in the package is the function

RED, GREEN, BLUE, WHITE, BLACK = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0)
ORIENTATION = 0x0112


def decode(data: bytes | Path, **changes: Any) -> Image.Image:
    options: dict[str, Any] = {
        "exif_orientation": True,
        "alpha": "white",
        "max_pixels": 100_000_000,
        "max_bytes": 100_000_000,
    }
    return images.decode(data, **(options | changes))


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def corners(image: Image.Image) -> list[Any]:
    """Top left, top right, bottom left, bottom right."""
    right, bottom = image.width - 1, image.height - 1
    return [image.getpixel(place) for place in ((0, 0), (right, 0), (0, bottom), (right, bottom))]


def four_colours(width: int = 4, height: int = 2) -> Image.Image:
    """Red, green / blue, white, one quarter each."""
    image = Image.new("RGB", (2, 2))
    for place, colour in zip(((0, 0), (1, 0), (0, 1), (1, 1)), (RED, GREEN, BLUE, WHITE), strict=True):
        image.putpixel(place, colour)
    return image.resize((width, height), Image.Resampling.NEAREST)


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


def turned(orientation: int) -> Image.Image:
    """The stored pixels for which this orientation gives `four_colours()` upright."""
    upright = four_colours()
    stored = {
        1: upright,
        2: upright.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
        3: upright.rotate(180),
        4: upright.transpose(Image.Transpose.FLIP_TOP_BOTTOM),
        5: upright.transpose(Image.Transpose.TRANSPOSE),
        6: upright.rotate(90, expand=True),  # the camera was turned: the file has to be turned clockwise
        7: upright.transpose(Image.Transpose.TRANSVERSE),
        8: upright.rotate(-90, expand=True),
    }
    return stored[orientation]


def exif_of(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return exif


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


# Limits


def flat_png(width: int, height: int, *, body: bool = True) -> bytes:
    """A grey PNG whose header names the size; without a body it can't be decoded."""

    def chunk(kind: bytes, payload: bytes) -> bytes:
        return struct.pack(">I", len(payload)) + kind + payload + struct.pack(">I", zlib.crc32(kind + payload))

    packer = zlib.compressobj(1)
    rows = b"".join(packer.compress(b"\0" + b"\x50" * width) for _ in range(height)) if body else b""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", rows + packer.flush()) + chunk(b"IEND", b"")


def tiff(order: str, *, width: int, height: int, bits: int, sample_format: int, pixels: bytes) -> bytes:
    """An uncompressed one-channel TIFF, written by hand."""
    tags = [(256, width), (257, height), (258, bits), (259, 1), (262, 1), (273, 8), (277, 1), (278, height)]
    tags += [(279, len(pixels)), (339, sample_format)]
    mark = b"II*\0" if order == "<" else b"MM\0*"
    directory = struct.pack(f"{order}H", len(tags))
    directory += b"".join(struct.pack(f"{order}HHII", tag, 4, 1, value) for tag, value in tags) + b"\0" * 4
    return mark + struct.pack(f"{order}I", 8 + len(pixels)) + pixels + directory


def test_60_megapixel_png() -> None:
    result = decode(flat_png(10_000, 6_000))
    assert result.size == (10_000, 6_000)
    assert result.getpixel((9_999, 5_999)) == (80, 80, 80)


def test_60_megapixel_jpeg() -> None:
    data = encoded(Image.new("L", (10_000, 6_000), 80), "JPEG")
    result = decode(data)
    assert result.size == (10_000, 6_000)
    assert result.getpixel((9_999, 5_999)) == (80, 80, 80)


@pytest.mark.parametrize(("width", "height"), [(10_001, 10_000), (50_000, 50_000), (2**31 - 1, 2**31 - 1)])
def test_more_pixels_than_allowed_are_refused_from_the_header(width: int, height: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ImageTooLarge, match=r"RAM_MAX_IMAGE_PIXELS") as caught:
            decode(flat_png(width, height, body=False), name="huge.png")
    assert str(caught.value).startswith(f"huge.png: {width} x {height} are ")
    assert "100,000,000" in str(caught.value)


def test_limit_is_inclusive() -> None:
    assert decode(flat_png(20, 10), max_pixels=200).size == (20, 10)
    with pytest.raises(ImageTooLarge):
        decode(flat_png(20, 10), max_pixels=199)


def test_huge_header_of_other_formats_is_refused(tmp_path: Path) -> None:
    gif = b"GIF89a" + struct.pack("<HH", 65_535, 65_535) + b"\0\0\0" + b"\x21\xf9\x04\x08\0\0\0\0"
    gif += b"," + struct.pack("<HHHH", 0, 0, 65_535, 65_535) + b"\0\x02\x02\x44\x01\0;"
    bmp = encoded(Image.new("RGB", (1, 1)), "BMP")
    bmp = bmp[:18] + struct.pack("<ii", 60_000, 60_000) + bmp[26:]
    webp = encoded(Image.new("RGBA", (2, 2), (1, 2, 3, 4)), "WEBP", save_all=True, append_images=[four_colours(2, 2)])
    canvas = webp.index(b"VP8X") + 12
    webp = webp[:canvas] + (16_000).to_bytes(3, "little") * 2 + webp[canvas + 6 :]
    raw = tiff("<", width=60_000, height=60_000, bits=8, sample_format=1, pixels=b"\0" * 16)
    for data in (gif, bmp, webp, raw):
        with pytest.raises(ImageTooLarge, match="RAM_MAX_IMAGE_PIXELS"):
            decode(data)


def test_too_little_memory_is_not_called_damage(monkeypatch: pytest.MonkeyPatch) -> None:
    def starve(image: Image.Image, alpha: str) -> Image.Image:
        raise MemoryError

    monkeypatch.setattr(images, "_to_rgb", starve)
    with pytest.raises(ImageTooLarge, match="not enough memory"):
        decode(flat_png(2, 2))


@pytest.mark.parametrize("kind", ["tiff", "png"])
def test_pillow_s_own_limit_does_not_fire_below_ours(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50)
    pixels = bytes(range(200))
    data = (
        tiff("<", width=20, height=10, bits=8, sample_format=1, pixels=pixels) if kind == "tiff" else flat_png(20, 10)
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert decode(data, max_pixels=200).size == (20, 10)


def test_pillow_s_limit_is_never_lowered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 5_000)
    decode(flat_png(2, 2), max_pixels=10)
    assert Image.MAX_IMAGE_PIXELS == 5_000
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    decode(flat_png(2, 2), max_pixels=10)
    assert Image.MAX_IMAGE_PIXELS is None


def test_more_bytes_than_allowed_are_refused(tmp_path: Path) -> None:
    data = encoded(four_colours(), "PNG")
    path = tmp_path / "big.png"
    path.write_bytes(data)
    for source in (data, path):
        assert decode(source, max_bytes=len(data)).size == (4, 2)
        with pytest.raises(ImageTooLarge, match="RAM_MAX_IMAGE_BYTES"):
            decode(source, max_bytes=len(data) - 1)


def test_large_file_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "sparse.png"
    with path.open("wb") as file:
        file.truncate(10**12)  # a hole: nothing on disk, but nobody could read it
    with pytest.raises(ImageTooLarge, match="1,000,000,000,000 bytes"):
        decode(path)


# Draft


def test_draft_decodes_a_big_jpeg_smaller_but_not_below_twice_the_size() -> None:
    data = encoded(four_colours(2000, 1000), "JPEG", quality=95)
    assert decode(data, draft_size=100).size == (500, 250)  # 1/4; 1/8 would be 125 high
    assert decode(data, draft_size=60).size == (250, 125)
    assert decode(data, draft_size=400).size == (2000, 1000)
    assert decode(data).size == (2000, 1000)
    assert np.abs(np.array(corners(decode(data, draft_size=60)), int) - [RED, GREEN, BLUE, WHITE]).max() < 12


def test_draft_turns_upright_too() -> None:
    data = encoded(four_colours(800, 400), "JPEG", exif=exif_of(6))
    assert decode(data, draft_size=50).size == (100, 200)


def test_draft_leaves_other_formats_alone() -> None:
    assert decode(encoded(four_colours(800, 400), "PNG"), draft_size=10).size == (800, 400)


# What is no image


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "empty"),
        (b"hello, I am a text file\n", "not an image in a known format"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'></svg>", "SVG"),
        (b"<?xml version='1.0'?>\n<!-- drawn -->\n<svg></svg>", "SVG"),
        (b"\n<!DOCTYPE html><html><body>Log in</body></html>", "web page"),
        (b"%PDF-1.7\n", "PDF"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n", "PostScript"),
        (b"\0\0\0\x18ftypheic\0\0\0\0", "HEIC"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS"),
        (bytes(1000), "not an image in a known format"),
        (b"\x80\x04cos\nsystem\n", "not an image in a known format"),
        (b"\x89PNG\r\n\x1a\n", "PNG"),
        (b"\xff\xd8\xff\xe0", "JPEG"),
        (b"GIF89a", "GIF"),
        (b"RIFF\x10\0\0\0WEBPVP8 ", "WEBP"),
        (b"II*\0\x08\0\0\0", "TIFF"),
        (flat_png(0, 5, body=False), "no pixels|damaged"),
        (flat_png(5, 5, body=False), "damaged or cut off"),
    ],
)
def test_what_is_no_image_is_refused_in_one_line(data: bytes, message: str) -> None:
    with pytest.raises(ImageUnreadable, match=message) as caught:
        decode(data, name="upload 7")
    assert str(caught.value).startswith("upload 7: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "JPEG2000", "PPM"])
def test_truncated_files_are_refused(kind: str) -> None:
    noise = Image.fromarray(np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    data = encoded(noise, kind)
    for share in (0.1, 0.5, 0.9):
        with pytest.raises(ImageUnreadable) as caught:
            decode(data[: int(len(data) * share)], name=f"cut.{kind}")
        assert str(caught.value).startswith(f"cut.{kind}: ")
        assert "\n" not in str(caught.value)


def test_formats_that_start_programs_are_not_read() -> None:
    assert not {"EPS", "PS", "WMF", "GRIB", "HDF5", "BUFR"} & set(images.FORMATS)
    assert "EPS" not in images._formats()


@given(data=st.data(), kind=st.sampled_from(["JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "JPEG2000"]))
@settings(max_examples=150, deadline=None)
def test_flipped_bytes_give_an_image_or_an_image_error(data: st.DataObject, kind: str) -> None:
    content = bytearray(encoded(four_colours(16, 16), kind))
    for place in data.draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=8)):
        content[place] = data.draw(st.integers(0, 255))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            outcome = decode(bytes(content), max_pixels=10_000).mode
        except ImageError as error:
            outcome = str(error)
    assert "\n" not in outcome


def test_paths_that_are_no_files(tmp_path: Path) -> None:
    with pytest.raises(ImageUnreadable, match="no such file"):
        decode(tmp_path / "missing.jpg")
    with pytest.raises(ImageUnreadable, match="folder"):
        decode(tmp_path)
    with pytest.raises(ImageUnreadable, match="regular file"):
        decode(Path("/dev/null"))
    with pytest.raises(ImageUnreadable, match="can't be read"):
        decode(Path("nul\0.jpg"))


def test_errors_name_the_file(tmp_path: Path) -> None:
    path = tmp_path / "notes.jpg"
    path.write_text("not a photo")
    with pytest.raises(ImageUnreadable) as caught:
        decode(path)
    assert str(caught.value).startswith(f"{path}: ")


def test_the_suffix_plays_no_part(tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    path.write_bytes(encoded(four_colours(), "PNG"))
    assert corners(decode(path)) == [RED, GREEN, BLUE, WHITE]


def test_result_is_loaded_and_the_file_closed(tmp_path: Path) -> None:
    path = tmp_path / "photo.png"
    path.write_bytes(encoded(four_colours(), "PNG", exif=exif_of(1)))
    with warnings.catch_warnings():
        warnings.simplefilter("error", ResourceWarning)
        result = decode(path)
    path.unlink()
    assert type(result) is Image.Image
    assert corners(result) == [RED, GREEN, BLUE, WHITE]
    assert result.info == {}


def test_many_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    images._formats.cache_clear()
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1)
    together = threading.Barrier(8)
    sources = [encoded(four_colours(64, 32), kind) for kind in ("PNG", "GIF", "TIFF", "BMP")]

    def work(number: int) -> bool:
        together.wait()
        pixels = [np.asarray(decode(source, max_pixels=4_000 + number)) for source in sources * 5]
        return all(np.array_equal(result, np.asarray(four_colours(64, 32))) for result in pixels)

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(8)))
    assert Image.MAX_IMAGE_PIXELS == 4_007


# Finding


def test_find_images(tmp_path: Path) -> None:
    for name in ("b.JPG", "a.png", "notes.txt", ".hidden.jpg", "sub/c.webp", "sub/deep/d.tif", ".cache/e.jpg", "odd"):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    photos = tmp_path / "photos"
    inside = [photos / name for name in ("a.png", "b.JPG", "sub/c.webp", "sub/deep/d.tif")]
    assert images.find_images([photos]) == inside
    named = [photos / "odd", photos / ".hidden.jpg", tmp_path / "missing.jpg"]
    assert images.find_images([*named, photos, photos / "a.png"]) == [*named, *inside]
    assert images.find_images([]) == []


def test_find_images_does_not_run_in_circles(tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    (tmp_path / "again").symlink_to(tmp_path)
    assert images.find_images([tmp_path]) == [tmp_path / "a.png"]

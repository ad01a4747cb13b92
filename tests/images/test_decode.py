"""Decoding: formats, modes, orientation and frames; limits, damage, what is no image; finding image files."""

import io
import struct
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from images import pictures
from images.pictures import BLUE, GREEN, RED, WHITE, corners, decode, encoded, exif_of, four_colours
from PIL import Image, features

from ram_backend.demo import photo_paths
from ram_backend.errors import ImageError, ImageTooLarge, ImageUnreadable
from ram_backend.images import decode as images

LOSSLESS = {"lossless": True}


def near(pixels: Any, expected: Any, most: float) -> bool:
    return bool(np.abs(np.array(pixels, float) - expected).max() <= most)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        *((kind, {}) for kind in ("PNG", "BMP", "TIFF", "PPM", "GIF", "JPEG2000")),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("WEBP", LOSSLESS),
        *((kind, {"quality": 95}) for kind in ("JPEG", "WEBP", "AVIF")),
    ],
)
def test_every_format_keeps_the_picture(kind: str, options: dict[str, Any]) -> None:
    if kind == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    result = decode(encoded(four_colours(64, 32), kind, **options))
    assert (result.mode, result.size) == ("RGB", (64, 32))
    assert near(corners(result), [RED, GREEN, BLUE, WHITE], 12 if "quality" in options else 0)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(("kind", "options"), [("PNG", {}), ("WEBP", LOSSLESS), ("JPEG", {"quality": 95})])
def test_every_orientation_is_turned_upright_when_asked(orientation: int, kind: str, options: dict[str, Any]) -> None:
    stored = pictures.turned(orientation)
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
        ([float("nan"), 0.5, float("inf")], np.float32, "TIFF", [0, 128, 0]),
        ([float("nan")] * 3, np.float32, "TIFF", [0, 0, 0]),
    ],
)
def test_grey_of_any_depth_is_scaled(values: list[float], dtype: Any, kind: str, expected: list[int]) -> None:
    result = np.asarray(decode(encoded(Image.fromarray(np.array([values], dtype=dtype)), kind)))
    assert result[0, :, 0].tolist() == expected
    assert (result == result[..., :1]).all()


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


@pytest.mark.parametrize(
    ("kind", "options"), [("WEBP", LOSSLESS), *((kind, {}) for kind in ("GIF", "PNG", "TIFF", "MPO"))]
)
def test_of_several_frames_the_first_is_taken(kind: str, options: dict[str, Any]) -> None:
    first, second = Image.new("RGB", (16, 16), RED), Image.new("RGB", (16, 16), BLUE)
    data = encoded(first, kind, save_all=True, append_images=[second], **options)
    with Image.open(io.BytesIO(data)) as file:
        assert getattr(file, "n_frames", 1) == 2
    assert near(decode(data).getpixel((8, 8)), RED, 5)


@pytest.mark.parametrize(("width", "height"), [(10_001, 10_000), (50_000, 50_000), (2**31 - 1, 2**31 - 1)])
def test_more_pixels_than_allowed_are_refused_from_the_header(width: int, height: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ImageTooLarge, match=r"RAM_MAX_IMAGE_PIXELS") as caught:
            decode(pictures.flat_png(width, height, body=False), name="huge.png")
    assert str(caught.value).startswith(f"huge.png: {width} x {height} are ")
    assert "100,000,000" in str(caught.value)


def test_too_little_memory_is_not_called_damage(monkeypatch: pytest.MonkeyPatch) -> None:
    def starve(image: Image.Image, alpha: str) -> Image.Image:
        raise MemoryError

    monkeypatch.setattr(images, "_to_rgb", starve)
    with pytest.raises(ImageTooLarge, match="not enough memory"):
        decode(pictures.flat_png(2, 2))


def test_more_bytes_than_allowed_are_refused_unread(tmp_path: Path) -> None:
    data = encoded(four_colours(), "PNG")
    path = tmp_path / "big.png"
    path.write_bytes(data)
    for source in (data, path):
        assert decode(source, max_bytes=len(data)).size == (4, 2)
        with pytest.raises(ImageTooLarge, match="RAM_MAX_IMAGE_BYTES"):
            decode(source, max_bytes=len(data) - 1)
    with path.open("wb") as file:
        file.truncate(10**12)  # a hole: nothing on disk, but nobody could read it
    with pytest.raises(ImageTooLarge, match="1,000,000,000,000 bytes"):
        decode(path)


def test_draft_decodes_a_big_jpeg_smaller_but_not_below_twice_the_size() -> None:
    data = encoded(four_colours(2000, 1000), "JPEG", quality=95)
    # 1/4 for 100, since 1/8 would be 125 high
    for draft_size, size in ((100, (500, 250)), (60, (250, 125)), (400, (2000, 1000)), (None, (2000, 1000))):
        assert decode(data, draft_size=draft_size).size == size
    assert np.abs(np.array(corners(decode(data, draft_size=60)), int) - [RED, GREEN, BLUE, WHITE]).max() < 12
    turned = encoded(four_colours(800, 400), "JPEG", exif=exif_of(6))
    assert decode(turned, draft_size=50).size == (100, 200)
    assert decode(encoded(four_colours(800, 400), "PNG"), draft_size=10).size == (800, 400), "other formats are whole"


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
        (b"\x80\x04cos\nsystem\n", "not an image in a known format"),
        (b"\x89PNG\r\n\x1a\n", "damaged"),
        (b"\xff\xd8\xff\xe0", "damaged"),
        (pictures.flat_png(0, 5, body=False), "damaged"),
        (pictures.flat_png(5, 5, body=False), "damaged or cut off"),
    ],
)
def test_what_is_no_image_is_refused_in_one_line(data: bytes, message: str) -> None:
    with pytest.raises(ImageUnreadable, match=message) as caught:
        decode(data, name="upload 7")
    assert str(caught.value).startswith("upload 7: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("data", "message"), [(b"%PDF-1.7\n", "PDF"), (b"\0\0\0\x18ftypheic\0\0\0\0", "HEIC")])
def test_what_is_no_photo_is_known_by_the_start_of_its_file(data: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "x.jpg").write_bytes(data)
    with pytest.raises(ImageUnreadable, match=message):
        images.check_start(tmp_path / "x.jpg", 10_000, "x.jpg")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "JPEG2000", "PPM"])
def test_truncated_files_are_refused(kind: str) -> None:
    noise = Image.fromarray(np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    data = encoded(noise, kind)
    for share in (0.1, 0.5, 0.7 if kind == "JPEG" else 0.9):  # the end of a JPEG may lack
        with pytest.raises(ImageUnreadable) as caught:
            decode(data[: int(len(data) * share)], name=f"cut.{kind}")
        assert str(caught.value).startswith(f"cut.{kind}: ")
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("missing", [1, 2, 3, 5, 8])
def test_a_jpeg_without_its_last_bytes_is_read_as_browsers_do(missing: int, progressive: bool) -> None:
    photo = Image.open(photo_paths()[0])
    data = encoded(photo, "JPEG", progressive=progressive)
    whole, cut = np.asarray(decode(data), np.int16), np.asarray(decode(data[:-missing]), np.int16)
    assert (np.abs(whole - cut) > 2).mean() < 0.01
    with pytest.raises(ImageUnreadable, match="a good part of its rows is missing"):
        decode(encoded(photo, "JPEG")[: len(data) // 2])


def test_formats_that_start_programs_are_not_read() -> None:
    assert not {"EPS", "PS", "WMF", "GRIB", "HDF5", "BUFR"} & set(images.FORMATS)


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


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("missing.jpg", "no such file"),
        ("", "is a folder"),
        ("/dev/null", "not a regular file"),
        ("nul\0.jpg", "can't be read"),
        ("notes.jpg", "not an image"),
    ],
)
def test_paths_that_are_no_images(tmp_path: Path, path: str, reason: str) -> None:
    (tmp_path / "notes.jpg").write_text("not a photo")
    with pytest.raises(ImageUnreadable, match=reason) as caught:
        decode(tmp_path / path)
    assert str(caught.value).startswith(f"{tmp_path / path}: ")


def test_find_images(tmp_path: Path) -> None:
    files = "b.JPG a.png notes.txt .hidden.jpg sub/c.webp sub/deep/d.tif .cache/e.jpg odd x.heic"
    for name in files.split():
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    photos = tmp_path / "photos"
    (photos / "again").symlink_to(photos)  # is not followed in circles
    inside = [photos / name for name in ("a.png", "b.JPG", "sub/c.webp", "sub/deep/d.tif", "x.heic")]
    assert images.find_images([photos]) == inside
    named = [photos / "odd", photos / ".hidden.jpg", tmp_path / "missing.jpg"]
    assert images.find_images([*named, photos, photos / "a.png"]) == [*named, *inside]
    assert images.find_images([]) == []


def test_a_progressive_jpeg_of_endless_scans() -> None:
    """Some kilobytes of scans, each of them a pass over all pixels, took a minute."""
    jpeg = encoded(Image.new("RGB", (64, 64)), "JPEG", progressive=True)
    decode(jpeg)
    last = jpeg.rindex(b"\xff\xda")
    with pytest.raises(ImageUnreadable, match="more than 100 progressive scans"):
        decode(jpeg[:last] + jpeg[last:-2] * 100 + jpeg[-2:])


def test_a_folder_that_cannot_be_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(folder: object) -> None:
        raise PermissionError(13, "Permission denied", str(folder))

    monkeypatch.setattr("os.scandir", refuse)  # root may list all folders
    with pytest.raises(ImageUnreadable, match="can't be listed"):
        images.find_images([tmp_path])

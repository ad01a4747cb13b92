"""Decoding: limits, drafts, what is no image, damage, threads, and finding image files."""

from __future__ import annotations

import struct
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from images.pictures import (
    BLUE,
    GREEN,
    RED,
    WHITE,
    corners,
    decode,
    encoded,
    exif_of,
    flat_png,
    four_colours,
    images,
    tiff,
)
from PIL import Image

from ram_backend.demo import photo_paths
from ram_backend.errors import ImageError, ImageTooLarge, ImageUnreadable
from ram_backend.images.decode import check_start

# Limits


@pytest.mark.parametrize(("width", "height"), [(10_001, 10_000), (50_000, 50_000), (2**31 - 1, 2**31 - 1)])
def test_more_pixels_than_allowed_are_refused_from_the_header(width: int, height: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ImageTooLarge, match=r"RAM_MAX_IMAGE_PIXELS") as caught:
            decode(flat_png(width, height, body=False), name="huge.png")
    assert str(caught.value).startswith(f"huge.png: {width} x {height} are ")
    assert "100,000,000" in str(caught.value)


def test_huge_header_of_other_formats_is_refused() -> None:
    gif = b"GIF89a" + struct.pack("<HH", 65_535, 65_535) + b"\0\0\0" + b"\x21\xf9\x04\x08\0\0\0\0"
    gif += b"," + struct.pack("<HHHH", 0, 0, 65_535, 65_535) + b"\0\x02\x02\x44\x01\0;"
    raw = tiff("<", width=60_000, height=60_000, bits=8, sample_format=1, pixels=b"\0" * 16)
    for data in (gif, raw):
        with pytest.raises(ImageTooLarge, match="RAM_MAX_IMAGE_PIXELS"):
            decode(data)


def test_too_little_memory_is_not_called_damage(monkeypatch: pytest.MonkeyPatch) -> None:
    def starve(image: Image.Image, alpha: str) -> Image.Image:
        raise MemoryError

    monkeypatch.setattr(images, "_to_rgb", starve)
    with pytest.raises(ImageTooLarge, match="not enough memory"):
        decode(flat_png(2, 2))


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


# Draft


def test_draft_decodes_a_big_jpeg_smaller_but_not_below_twice_the_size() -> None:
    data = encoded(four_colours(2000, 1000), "JPEG", quality=95)
    # 1/4 for 100, since 1/8 would be 125 high
    for draft_size, size in ((100, (500, 250)), (60, (250, 125)), (400, (2000, 1000)), (None, (2000, 1000))):
        assert decode(data, draft_size=draft_size).size == size
    assert np.abs(np.array(corners(decode(data, draft_size=60)), int) - [RED, GREEN, BLUE, WHITE]).max() < 12
    turned = encoded(four_colours(800, 400), "JPEG", exif=exif_of(6))
    assert decode(turned, draft_size=50).size == (100, 200)
    assert decode(encoded(four_colours(800, 400), "PNG"), draft_size=10).size == (800, 400), "other formats are whole"


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
        (b"\x80\x04cos\nsystem\n", "not an image in a known format"),
        (b"\x89PNG\r\n\x1a\n", "damaged"),
        (b"\xff\xd8\xff\xe0", "damaged"),
        (b"RIFF\x10\0\0\0WEBPVP8 ", "damaged"),
        (flat_png(0, 5, body=False), "damaged"),
        (flat_png(5, 5, body=False), "damaged or cut off"),
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
        check_start(tmp_path / "x.jpg", 10_000, "x.jpg")


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


# Finding


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

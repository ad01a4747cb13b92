"""What is read of an image before it is its turn to be decoded."""

from __future__ import annotations

import io

import pytest
from PIL import Image, PngImagePlugin
from server.playing import RED, picture

from ram_backend.server.pictures import _size


def turned(format: str) -> bytes:
    data, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 30)).save(data, format, exif=exif)
    return data.getvalue()


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP"])
def test_the_size_is_that_which_people_see(format: str) -> None:
    assert _size(picture(RED, (40, 30), format)) == (40, 30)
    assert _size(turned(format)) == (30, 40)
    assert _size(b"no image") is None


def test_no_pixel_is_decoded_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A small file may hold a huge image: it waits for its turn, and for the check of its size."""

    def load(self: object) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", load)
    assert _size(picture(RED, (4000, 3000))) == (4000, 3000)

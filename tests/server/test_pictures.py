"""What is read of an image before it is its turn to be decoded."""

from __future__ import annotations

import io

import pytest
from PIL import Image, PngImagePlugin
from server.playing import RED, picture

from ram_backend.images import decode
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


def test_a_png_that_says_behind_its_pixels_which_way_is_up() -> None:
    data = turned("PNG")
    at = data.index(b"eXIf") - 4
    end = at + 12 + int.from_bytes(data[at : at + 4], "big")
    late = data[:at] + data[end:-12] + data[at:end] + data[-12:]
    assert _size(late) == (30, 40)
    upright = decode(late, exif_orientation=True, alpha="white", max_pixels=10**6, max_bytes=10**6)
    assert upright.size == (30, 40)
    assert _size(picture(RED, (40, 30)) + b"\0\0\0\1eXIfhello") == (40, 30)


def test_no_pixel_is_decoded_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A small file may hold a huge image: it waits for its turn, and for the check of its size."""

    def load(self: object) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", load)
    assert _size(picture(RED, (4000, 3000))) == (4000, 3000)

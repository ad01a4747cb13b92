"""Pictures made with Pillow for the tests of decoding, with pixels that can be told apart."""

import io
import struct
import zlib
from pathlib import Path
from typing import Any

from PIL import Image

from ram_backend.images import decode as images

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)
ORIENTATION = 0x0112


def decode(data: bytes | Path, **changes: Any) -> Image.Image:
    options = {"exif_orientation": True, "alpha": "white", "max_pixels": 100_000_000, "max_bytes": 100_000_000}
    return images.decode(data, **(options | changes))[0]


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


def turned(orientation: int) -> Image.Image:
    """The stored pixels for which this orientation gives `four_colours()` upright."""
    how, upright = Image.Transpose, four_colours()
    stored = (how.FLIP_LEFT_RIGHT, how.ROTATE_180, how.FLIP_TOP_BOTTOM, how.TRANSPOSE, how.ROTATE_90, how.TRANSVERSE)
    return upright if orientation == 1 else upright.transpose((*stored, how.ROTATE_270)[orientation - 2])


def exif_of(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return exif


def flat_png(width: int, height: int, *, body: bool = True) -> bytes:
    """A grey PNG whose header names the size; without a body it can't be decoded."""

    def chunk(kind: bytes, payload: bytes) -> bytes:
        return struct.pack(">I", len(payload)) + kind + payload + struct.pack(">I", zlib.crc32(kind + payload))

    packer = zlib.compressobj(1)
    rows = b"".join(packer.compress(b"\0" + b"\x50" * width) for _ in range(height)) if body else b""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", rows + packer.flush()) + chunk(b"IEND", b"")

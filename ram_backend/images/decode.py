"""Image decoding with Pillow, within limits; perceptual hash.

Only the formats of `FORMATS` are read: none of them starts another program.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from ram_backend.errors import ImageTooLarge, ImageUnreadable, first_line

Alpha = Literal["drop", "white"]

FORMATS: dict[str, tuple[str, ...]] = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"),
    "PNG": (".png", ".apng"),
    "WEBP": (".webp",),
    "GIF": (".gif",),
    "TIFF": (".tif", ".tiff"),
    "BMP": (".bmp",),
    "JPEG2000": (".jp2", ".j2k"),
    "AVIF": (".avif",),  # not in every Pillow
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm", ".pfm"),
}
"""Formats that are read, tried in this order, and their file name endings."""

OTHER_SUFFIXES = (".heic", ".heif", ".tga", ".pdf", ".svg", ".psd", ".jxl", ".dng", ".cr2", ".cr3", ".nef", ".arw")
"""Of unreadable pictures: `find_images` takes them, so that this is said."""

SUFFIXES = frozenset(suffix for suffixes in (*FORMATS.values(), OTHER_SUFFIXES) for suffix in suffixes)
"""File name endings (lower case) that `find_images` takes from folders."""

MOST_SCANS = 100
"""Limit for a JPEG: each is a pass over all pixels; ten are usual."""

STRIP_PIXELS = 1_000_000
"""Pixels converted at once."""

HASH_BITS = 64
"""Length of a hash."""
HASH_SIDE = 32
"""Side in pixels of the grey picture that is hashed."""
HASH_PRECISION = 3
"""Decimals of frequencies: rounding noise gives no bits."""

_JPEG, _END_OF_IMAGE = b"\xff\xd8\xff", b"\xff\xd9"
_START_OF_SCAN = b"\xff\xda"  # compressed data never hold it
_ORIENTATION = 0x0112  # the EXIF tag

_NOT_PHOTOS: tuple[tuple[tuple[bytes, ...], str], ...] = (
    ((b"%pdf",), "a PDF: export its pages as images"),
    ((b"<svg",), "an SVG drawing: export it as PNG"),
    ((b"<!doctype html", b"<html"), "a web page, perhaps a login or error page: check the address it came from"),
    ((b"%!ps",), "PostScript: export it as PNG"),
    ((b"version https://git-lfs",), "a Git LFS pointer: run `git lfs pull` to get the file itself"),
)


def decode(
    data: bytes | Path,
    *,
    exif_orientation: bool,
    alpha: Alpha,
    max_pixels: int,
    max_bytes: int,
    draft_size: int | None = None,
    name: str | None = None,
) -> tuple[Image.Image, tuple[int, int]]:
    """Decodes one image, of animations the first frame.

    Depths other than 8 bits are scaled, never clipped (see `_grey_range`). CMYK
    goes through Pillow's plain conversion; colour profiles are ignored. Pillow
    itself turns TIFF images upright, whatever `exif_orientation` says.

    Args:
        data: the file's bytes, or its path.
        exif_orientation: turn the image upright as its EXIF orientation says;
            False: pixels as stored.
        alpha: "drop" keeps the stored colours under transparent pixels, "white"
            lays the image on white.
        max_pixels: limit for width x height in the header (setting
            RAM_MAX_IMAGE_PIXELS).
        max_bytes: limit for the size of the file (setting RAM_MAX_IMAGE_BYTES).
        draft_size: JPEG files may be decoded at 1/2, 1/4 or 1/8 of their size,
            but to no side shorter than twice this number of pixels. None:
            always at full size.
        name: of the image in errors; by default the path, or "image" for bytes.

    Returns:
        The image (mode "RGB", fully loaded, without metadata; nothing stays
        open), and (width, height) upright.

    Raises:
        ImageTooLarge: more bytes or pixels than the limits allow.
        ImageUnreadable: missing, not an image of a known format, damaged, or
            cut off.
    """
    if isinstance(data, Path):
        name = name or str(data)
        content = read_file(data, max_bytes, name)
    else:
        name, content = name or "image", data
    _check(len(content), max_bytes, f"{name}: {len(content):,} bytes are", "RAM_MAX_IMAGE_BYTES")
    if not content:
        raise ImageUnreadable(f"{name}: the file is empty (0 bytes). Fetch or export it again.")
    cut = content.startswith(_JPEG) and content.rfind(_END_OF_IMAGE) < content.rfind(_START_OF_SCAN)
    with _open(content + _END_OF_IMAGE if cut else content, name) as image:
        (width, height), pixels = image.size, image.width * image.height
        _check(pixels, max_pixels, f"{name}: {width} x {height} are {pixels:,} pixels,", "RAM_MAX_IMAGE_PIXELS")
        if image.format in ("JPEG", "MPO") and content.count(_START_OF_SCAN) > MOST_SCANS:
            raise ImageUnreadable(f"{name}: has more than {MOST_SCANS} progressive scans. Export it again.")
        try:
            if draft_size is not None:
                image.draft(None, (2 * draft_size, 2 * draft_size))
            image.load()
            if cut and _lacks_rows(image):
                raise EOFError("a good part of its rows is missing")
            orientation = _orientation(image)
            result = _to_rgb(image, alpha)
        except MemoryError:
            raise ImageTooLarge(f"{name}: not enough memory to decode it. Shrink the image or free memory.") from None
        except Exception as error:  # decoders have too many to list
            raise ImageUnreadable(
                f"{name}: the {image.format} data is damaged or cut off, or huge ({first_line(error)}). Export it."
            ) from error
    width, height = result.size
    result.info.clear()
    if exif_orientation:
        result.getexif()[_ORIENTATION] = orientation
        ImageOps.exif_transpose(result, in_place=True)
    return result, (height, width) if orientation in (5, 6, 7, 8) else (width, height)


def thumbnail(data: bytes, size: int, max_pixels: int, max_bytes: int, name: str) -> bytes:
    """A JPEG of at most `size` x `size` pixels; arguments and errors as in `decode`."""
    limits = {"max_pixels": max_pixels, "max_bytes": max_bytes}
    image, _ = decode(data, exif_orientation=True, alpha="white", draft_size=size, name=name, **limits)
    image.thumbnail((size, size))
    out = io.BytesIO()
    image.save(out, "JPEG", quality=80)
    return out.getvalue()


def header_of(data: bytes) -> tuple[int, str]:
    """Width x height and format by an image's header; (0, "") without one."""
    try:
        with _open(data, "image") as image:
            return image.width * image.height, image.format or ""
    except (ImageTooLarge, ImageUnreadable):
        return 0, ""


def perceptual_hash(image: Image.Image) -> int:
    """Hash in [0, 2**64) of the DCT: a bit per low frequency, set above their median.

    Size, JPEG quality, brightness and contrast hardly change it. Among two
    million pairs of photos none differed in 8 bits or fewer, while 98 % of
    photos stay within 8 bits of themselves cropped by 2 % on each side. A
    picture of a single colour has 0; transparency is ignored.
    """
    grey = image.convert("L").resize((HASH_SIDE, HASH_SIDE), Image.Resampling.LANCZOS)
    place = np.arange(HASH_SIDE)
    frequency = place[:, None]
    cosines = np.cos(np.pi * frequency * (2 * place + 1) / (2 * HASH_SIDE))  # of the DCT of type II
    transformed = cosines @ np.asarray(grey, dtype=np.float64) @ cosines.T
    places = ((row, column) for row in range(16) for column in range(16))
    order = sorted(places, key=lambda at: (sum(at), at[0]))
    lowest = order[1 : HASH_BITS + 1]  # without the mean brightness
    frequencies = np.round([transformed[at] for at in lowest], HASH_PRECISION)
    return int.from_bytes(np.packbits(frequencies > np.median(frequencies)).tobytes(), "big")


def find_images(paths: Sequence[Path]) -> list[Path]:
    """Image files under the paths, in their order, sorted within folders, each once.

    Files are taken whatever they are called, also missing ones. Folders are
    searched, with subfolders, for files with a suffix of `SUFFIXES`. Hidden
    files and folders (".x") are skipped, links to folders not followed.

    Raises:
        ImageUnreadable: a folder can't be listed.
    """
    found: dict[Path, None] = {}
    for path in paths:
        found.update(dict.fromkeys(_images_in(path) if path.is_dir() else [path]))
    return list(found)


def _images_in(folder: Path) -> list[Path]:
    def refuse(error: OSError) -> None:
        raise ImageUnreadable(f"{error.filename}: can't be listed ({error.strerror}). Check its permissions.")

    images: list[Path] = []
    for parent, folders, files in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        paths = (Path(parent, name) for name in files if not name.startswith("."))
        images += (path for path in paths if path.suffix.lower() in SUFFIXES)
    return sorted(images)


def check_start(path: Path, max_bytes: int, name: str) -> None:
    """Looks at the size and the first bytes of a file, which is cheap.

    Raises:
        ImageTooLarge: the file is larger than `max_bytes`.
        ImageUnreadable: it can't be read, or is known to be no photo.
    """
    other = _not_a_photo(read_file(path, max_bytes, name, most=1024))
    if other is not None:
        raise ImageUnreadable(f"{name}: is {other}.")


def read_file(path: Path, max_bytes: int, name: str, *, most: int | None = None) -> bytes:
    """The bytes of a regular file, one more than allowed, or the first `most`.

    Raises:
        ImageTooLarge: the file is larger than `max_bytes`.
        ImageUnreadable: it is missing, not a regular file, or can't be read.
    """
    try:
        if path.is_dir():
            raise ImageUnreadable(f"{name}: is a folder, not an image. Name the files in it.")
        if path.exists() and not path.is_file():
            raise ImageUnreadable(f"{name}: is not a regular file. Copy the image to a file first.")
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            _check(size, max_bytes, f"{name}: {size:,} bytes are", "RAM_MAX_IMAGE_BYTES")
            return file.read(max_bytes + 1 if most is None else most)
    except FileNotFoundError:
        raise ImageUnreadable(f"{name}: no such file. Check the path.") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise ImageUnreadable(f"{name}: can't be read ({first_line(error)}). Check its permissions.") from error


def _check(count: int, limit: int, found: str, setting: str) -> None:
    if count > limit:
        raise ImageTooLarge(f"{found} more than the {limit:,} allowed. Shrink the image or raise {setting}.")


def _open(content: bytes, name: str) -> Image.Image:
    """Reads the header."""
    Image.init()
    Image.MAX_IMAGE_PIXELS = None  # of the whole process; our own limit is compared with the header
    try:
        return Image.open(io.BytesIO(content), formats=[each for each in FORMATS if each in Image.OPEN])
    except UnidentifiedImageError:
        known = f"convert it to one of {', '.join(FORMATS)}"
        unknown = f"not an image in a known format, or its header is damaged: {known}"
        raise ImageUnreadable(f"{name}: is {_not_a_photo(content) or unknown}.") from None
    except Exception as error:  # decoders have too many to list
        raise ImageUnreadable(
            f"{name}: its header is damaged or cut off, or it is huge ({first_line(error)}). Export it again."
        ) from error


def _not_a_photo(content: bytes) -> str | None:
    """What a file of another kind is, by its first bytes; None: not known as such."""
    start = content[:1024].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    for marks, description in _NOT_PHOTOS:
        if start.startswith(marks):
            return description
    if start.startswith((b"<?xml", b"<!--", b"<!doctype svg")) and b"<svg" in start:
        return "an SVG drawing: export it as PNG"
    if content[4:8] == b"ftyp" and content[8:12] in (b"heic", b"heix", b"hevc", b"mif1", b"msf1"):
        return "HEIC, which Pillow can't read: convert it to JPEG or PNG"
    return None


def _lacks_rows(image: Image.Image) -> bool:
    """Whether a JPEG's lower tenth is of one colour, as libjpeg fills missing rows."""
    values = np.asarray(image.crop((0, image.height - max(1, image.height // 10), *image.size)))
    return bool((values == values[-1, -1]).all())


def _orientation(image: Image.Image) -> int:
    """EXIF orientation of a loaded image (PNG may have it last); else 1."""
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # damaged metadata doesn't make the picture unreadable
        return 1


def _to_rgb(image: Image.Image, alpha: Alpha) -> Image.Image:
    """A loaded image as RGB, strip by strip to save memory."""
    if image.mode == "RGB" and not image.has_transparency_data:
        return image._new(image.im)  # the same pixels, without what the file says of orientation
    deep = image.mode in ("I", "F") or image.mode.startswith("I;16")
    black, white = _grey_range(image) if deep else (0.0, 0.0)
    result = Image.new("RGB", image.size)
    for strip, top in _strips(image):
        if deep:
            strip = Image.fromarray(_grey_to_8_bits(np.asarray(strip), black, white))  # noqa: PLW2901
        result.paste(_strip_to_rgb(strip, alpha), (0, top))
    return result


def _strips(image: Image.Image) -> Iterator[tuple[Image.Image, int]]:
    """Parts over the whole width, of `STRIP_PIXELS` or a row, each with its top."""
    rows = max(1, STRIP_PIXELS // image.width)
    for top in range(0, image.height, rows):
        yield image.crop((0, top, image.width, min(top + rows, image.height))), top


def _strip_to_rgb(image: Image.Image, alpha: Alpha) -> Image.Image:
    if image.mode in ("La", "RGBa"):  # colours stored multiplied by alpha
        image = image.convert(image.mode.upper())
    if alpha == "white" and image.has_transparency_data:
        layer = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
    return image.convert("RGB")


def _grey_range(image: Image.Image) -> tuple[float, float]:
    """The values that become black and white.

    Integers within 0..65535 are 16-bit values. Floats within [0, 1] are shares
    of white, floats within [0, 255] are 8-bit values. Anything else (heights,
    radiances) is stretched from its smallest to its largest value.
    """
    low, high = np.inf, -np.inf
    for strip, _ in _strips(image):
        values = np.asarray(strip)
        finite = values[np.isfinite(values)]
        if finite.size:
            low, high = min(low, float(finite.min())), max(high, float(finite.max()))
    usual = (1.0, 255.0) if image.mode == "F" else (65535.0,)
    whites = [white for white in usual if low >= 0 and high <= white]
    return (0.0, whites[0]) if whites else (low, high)


def _grey_to_8_bits(values: NDArray[np.generic], black: float, white: float) -> NDArray[np.uint8]:
    """Grey values (H, W) of any depth, scaled to 0..255; not finite: black."""
    grey = values.astype(np.float32 if values.dtype.itemsize < 4 else np.float64)
    scaled = (np.where(np.isfinite(grey), grey, black) - black) * (255.0 / (white - black or 1.0))
    return np.rint(scaled).astype(np.uint8)

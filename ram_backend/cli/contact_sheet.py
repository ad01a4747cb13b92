"""Contact sheet: photos with drawn tags, and a page of thumbnails."""

from __future__ import annotations

import re
from functools import partial
from hashlib import sha256
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from ram_backend.cli.output import printable, written_whole
from ram_backend.cli.tag_files import Record, TagFile, TaggedImage, read_records
from ram_backend.errors import ImageError, InputError
from ram_backend.images.decode import decode
from ram_backend.settings import Settings
from ram_backend.tagging.tagger import Tagger

SIDE = 1280
THUMBNAIL = 320
THUMBNAILS = "thumbnails"


class ContactSheet:
    """A folder of drawn photos, `thumbnails/`, `tags.jsonl` and `index.html`.

    Args:
        folder: made if it is not there.
        tagger: whose tags they are.
        settings: limits of images.
        resume: keep what the folder has.

    Raises:
        InputError: the folder can't be made or written.
    """

    def __init__(self, folder: Path, tagger: Tagger, settings: Settings, *, resume: bool) -> None:
        self._folder = folder
        self._decode = partial(
            decode,
            exif_orientation=True,
            alpha="white",
            draft_size=SIDE // 2,
            max_pixels=settings.max_image_pixels,
            max_bytes=settings.max_image_bytes,
        )
        try:
            (folder / THUMBNAILS).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"--save {folder}: can't be made ({error.strerror}): choose another folder.") from None
        self._tags = TagFile(folder / "tags.jsonl", tagger, resume=resume)
        self.images = self._tags.images
        self.path = folder / "index.html"

    def add(self, record: Record, image: TaggedImage) -> None:
        """Draws a photo, and keeps its record.

        Raises:
            InputError: it can't be written.
        """
        try:
            photo, _ = self._decode(image.path)
        except ImageError:  # it has gone since it was tagged
            return
        photo.thumbnail((SIDE, SIDE))
        file = saved_name(record["image"])
        try:
            draw(photo, record).save(self._folder / file, "JPEG", quality=85)
            photo.thumbnail((THUMBNAIL, THUMBNAIL))
            photo.save(self._folder / THUMBNAILS / file, "JPEG", quality=80)
        except OSError as error:
            raise InputError(f"{self._folder / file} can't be written ({error.strerror}): --resume goes on.") from None
        self._tags.add(record, image)

    def close(self) -> None:
        """Writes the page of all photos in the folder."""
        from jinja2 import Environment, PackageLoader, StrictUndefined

        self._tags.close()
        photos = [
            {"name": printable(each["image"]), "file": saved_name(each["image"]), **each}
            for each in read_records(self._folder / "tags.jsonl")
        ]
        environment = Environment(
            loader=PackageLoader("ram_backend.cli"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
        )
        page = environment.get_template("contact_sheet.html").render(photos=photos, thumbnails=THUMBNAILS)
        with written_whole(self.path) as file:
            file.write(page.encode("utf-8", "backslashreplace"))


def saved_name(image: str) -> str:
    """The drawn file's name: the photo's, and a digest of its path."""
    stem = re.sub(r"[^\w.-]+", "_", Path(image).stem)[:60]
    return f"{stem}-{sha256(printable(image).encode()).hexdigest()[:8]}.jpg"


def draw(photo: Image.Image, record: Record) -> Image.Image:
    """The photo (mode RGB) with its regions, and the best tags that it has room for."""
    size, shade = max(12, photo.height // 28), Image.new("RGBA", photo.size)
    pen, font = ImageDraw.Draw(shade), ImageFont.load_default(size)
    for region in record.get("regions", ()):
        x0, y0, x1, y1 = (round(edge * photo.size[place % 2]) for place, edge in enumerate(region["box"]))
        pen.rectangle((x0, y0, max(x0, x1 - 1), max(y0, y1 - 1)), outline="yellow", width=max(2, size // 8))
        pen.text((x0 + size // 2, y1 - size * 3 // 2), region["tag"], font=font, fill="yellow", stroke_width=1)
    lines = [f"{each['tag']} {each['score']:.2f}" for each in record["tags"]][: photo.height // (size * 5 // 4) - 1]
    if lines:
        text = "\n".join(lines)
        left, top, right, bottom = pen.multiline_textbbox((size, size), text, font=font)
        pen.rectangle((left - size // 2, top - size // 2, right + size // 2, bottom + size // 2), fill=(0, 0, 0, 140))
        pen.multiline_text((size, size), text, font=font, fill="white")
    return Image.alpha_composite(photo.convert("RGBA"), shade).convert("RGB")

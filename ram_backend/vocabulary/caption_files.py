"""Readers of image-text pairs: JSON Lines, CSV and TSV, COCO captions, webdataset tar."""

from __future__ import annotations

import csv
import json
import tarfile
from collections import defaultdict
from collections.abc import Iterable, Iterator
from itertools import groupby
from operator import itemgetter
from pathlib import Path, PurePosixPath
from typing import Any

from ram_backend.errors import InputError

_IMAGE_FIELDS = ("file", "image", "image_path", "file_name", "filepath", "url")
_TEXT_FIELDS = ("captions", "caption", "text", "texts", "sentence", "sentences")

Pair = tuple[str, list[str]]
"""An image's name and its captions."""


def read_captions(path: Path) -> Iterator[Pair]:
    """Images and their captions, one at a time, in the file's order.

    Read are, by the ending: `.jsonl` (an object a line: `file` or `image`, and
    `captions` or `caption`), `.csv` and `.tsv` (with a head line of such names;
    rows of one image that follow each other are one image), `.json` (COCO's
    caption annotations, or a list of such objects) and `.tar` (webdataset:
    `KEY.txt` or a `caption` in `KEY.json`).

    Raises:
        InputError: another ending, no such file, or a record without an image
            or a caption; names file and record.
    """
    readers = {".jsonl": _lines, ".csv": _table, ".tsv": _table, ".json": _document, ".tar": _archive}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise InputError(f"{path}: captions are read from {', '.join(readers)}. Convert the file.")
    try:
        yield from _merged(reader(path))
    except OSError as error:
        raise InputError(f"{path} can't be read ({error.strerror or error}). Check the path.") from None
    except (UnicodeDecodeError, json.JSONDecodeError, tarfile.TarError, csv.Error) as error:
        raise InputError(f"{path} can't be read as {path.suffix} ({error}). Repair the file.") from None


def _merged(pairs: Iterable[Pair]) -> Iterator[Pair]:
    """Pairs that follow each other and name one image, as one."""
    for image, same in groupby(pairs, key=itemgetter(0)):
        yield image, [caption for _, captions in same for caption in captions]


def _lines(path: Path) -> Iterator[Pair]:
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield _pair(json.loads(line), f"{path}, line {number}")


def _table(path: Path) -> Iterator[Pair]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = csv.DictReader(file, delimiter="\t" if path.suffix.lower() == ".tsv" else ",")
        for number, row in enumerate(rows, start=2):
            yield _pair(row, f"{path}, line {number}")


def _document(path: Path) -> Iterator[Pair]:
    content = json.loads(path.read_text(encoding="utf-8-sig"))
    if isinstance(content, dict) and isinstance(content.get("annotations"), list):
        try:
            names = {image["id"]: str(image["file_name"]) for image in content["images"]}
            captions = defaultdict(list)
            for annotation in content["annotations"]:
                captions[names[annotation["image_id"]]].append(str(annotation["caption"]))
        except (KeyError, TypeError) as error:
            raise InputError(f"{path}: not COCO's caption annotations ({error!r}). Repair the file.") from None
        yield from captions.items()
        return
    if not isinstance(content, list):
        raise InputError(f"{path}: neither COCO's caption annotations nor a list of objects. Repair the file.")
    for number, record in enumerate(content, start=1):
        yield _pair(record, f"{path}, record {number}")


def _archive(path: Path) -> Iterator[Pair]:
    with tarfile.open(path) as archive:
        for member in archive:
            name = PurePosixPath(member.name)
            key, _, ending = name.name.partition(".")
            content = archive.extractfile(member) if ending.lower() in ("txt", "caption", "json") else None
            if content is None:
                continue
            text = content.read().decode()
            record = json.loads(text) if ending.lower() == "json" else {"caption": text.strip()}
            if isinstance(record, dict) and any(field in record for field in _TEXT_FIELDS):
                yield _pair({**record, "file": str(name.with_name(key))}, f"{path}, {member.name}")


def _pair(record: Any, where: str) -> Pair:
    fields = record if isinstance(record, dict) else {}
    image = next((fields[name] for name in _IMAGE_FIELDS if fields.get(name)), None)
    text = next((fields[name] for name in _TEXT_FIELDS if fields.get(name)), None)
    captions = [text] if isinstance(text, str) else text
    if not isinstance(image, str) or not isinstance(captions, list) or not all(isinstance(c, str) for c in captions):
        raise InputError(f"{where}: names no image ({_IMAGE_FIELDS[0]}) with a caption ({_TEXT_FIELDS[1]}). Add them.")
    return image, list(captions)

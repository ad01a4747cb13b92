"""Readers of image-text pairs: JSON Lines, CSV, TSV, COCO, webdataset."""

from __future__ import annotations

import csv
import json
import tarfile
from collections.abc import Iterator
from itertools import groupby
from operator import itemgetter
from pathlib import Path, PurePosixPath
from typing import Any

from ram_backend.errors import InputError

_IMAGE_FIELDS = ("file", "image", "image_path", "file_name", "filepath", "url")
_TEXT_FIELDS = ("captions", "caption", "text", "texts", "sentence", "sentences")
_SUFFIXES = (".jsonl", ".csv", ".tsv", ".json", ".tar")

Pair = tuple[str, list[str]]
"""An image's name and its captions."""


def read_captions(path: Path) -> Iterator[Pair]:
    """Images and their captions, one at a time, in the file's order.

    By the ending: `.jsonl` (an object a line: `file` or `image`, and `captions`
    or `caption`), `.csv` and `.tsv` (with a head line of such names), `.json`
    (COCO's captions, or a list of such objects) and `.tar` (webdataset:
    `KEY.txt` or a `caption` in `KEY.json`). Adjacent records of an image merge.

    Raises:
        InputError: another ending, no such file, or a record without an image
            or a caption; names file and record.
    """
    if path.suffix.lower() not in _SUFFIXES:
        raise InputError(f"{path}: captions are read from {', '.join(_SUFFIXES)}. Convert the file.")
    try:
        pairs = (_pair(record, f"{path}, {where}") for where, record in _records(path))
        for image, same in groupby(pairs, key=itemgetter(0)):
            yield image, [caption for _, captions in same for caption in captions]
    except OSError as error:
        raise InputError(f"{path} can't be read ({error.strerror or error}). Check the path.") from None
    except (ValueError, KeyError, TypeError, tarfile.TarError, csv.Error) as error:
        raise InputError(f"{path} can't be read as captions in {path.suffix} ({error!r}). Repair the file.") from None


def _records(path: Path) -> Iterator[tuple[str, Any]]:
    """Where each record is, and what it holds."""
    suffix = path.suffix.lower()
    if suffix == ".tar":
        yield from _members(path)
    elif suffix == ".json":
        content = json.loads(path.read_text(encoding="utf-8-sig"))
        if isinstance(content, dict):
            names = {image["id"]: image["file_name"] for image in content["images"]}
            by_image = sorted(content["annotations"], key=itemgetter("image_id"))
            content = [{"file": names[each["image_id"]], "caption": each["caption"]} for each in by_image]
        yield from ((f"record {number}", record) for number, record in enumerate(content, start=1))
    else:
        with path.open(encoding="utf-8-sig", newline="") as file:
            if suffix == ".jsonl":
                for number, line in enumerate(file, start=1):
                    if line.strip():
                        yield f"line {number}", json.loads(line)
            else:
                rows = csv.DictReader(file, delimiter="\t" if suffix == ".tsv" else ",")
                yield from ((f"line {number}", row) for number, row in enumerate(rows, start=2))


def _members(path: Path) -> Iterator[tuple[str, Any]]:
    with tarfile.open(path) as archive:
        for member in archive:
            name = PurePosixPath(member.name)
            key, _, ending = name.name.partition(".")
            ending = ending.lower()
            content = archive.extractfile(member) if ending in ("txt", "caption", "json") else None
            if content is not None:
                text = content.read().decode()
                record = json.loads(text) if ending == "json" else {"caption": text.strip()}
                if any(field in record for field in _TEXT_FIELDS):
                    yield member.name, {**record, "file": str(name.with_name(key))}


def _pair(record: Any, where: str) -> Pair:
    fields = record if isinstance(record, dict) else {}
    image = next((fields[name] for name in _IMAGE_FIELDS if fields.get(name)), None)
    text = next((fields[name] for name in _TEXT_FIELDS if fields.get(name)), None)
    captions = [text] if isinstance(text, str) else text
    if not isinstance(captions, list) or not all(isinstance(each, str) for each in captions):
        captions = []
    if not isinstance(image, str) or not captions:
        raise InputError(f"{where}: names no image ({_IMAGE_FIELDS[0]}) with a caption ({_TEXT_FIELDS[1]}). Add them.")
    return image, list(captions)

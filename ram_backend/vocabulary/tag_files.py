"""Readers and writer of tag files: our JSON, one tag a line, and the plain lists of RAM's authors."""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ram_backend.errors import VocabularyError

FORMAT = 1
_LISTS = ("synonyms", "hypernyms", "sources")


def is_probability(value: object) -> bool:
    """Whether `value` is a finite number in [0, 1]; True and False are not numbers here."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and 0 <= value <= 1


def read_text(path: Path) -> str:
    """UTF-8 text of a file, a byte order mark removed.

    Raises:
        VocabularyError: it can't be read or isn't UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise VocabularyError(f"{path}: can't be read ({error.strerror}). Check the path.") from None
    except UnicodeDecodeError as error:
        raise VocabularyError(f"{path}: byte {error.start} is not UTF-8. Save the file as UTF-8.") from None


def read_json(path: Path) -> Any:
    """A file's JSON.

    Raises:
        VocabularyError: it can't be read or is no JSON; names the line.
    """
    try:
        return json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise VocabularyError(f"{path}, line {error.lineno}: not JSON ({error.msg}). Repair the file.") from None


def read_names(path: Path) -> list[str]:
    """The lines of a tag list, untouched; names may repeat, a final newline may be missing.

    Raises:
        VocabularyError: it can't be read, has no line, or has an empty one.
    """
    names = read_text(path).splitlines()
    if not names:
        raise VocabularyError(f"{path}: empty. Put one tag on each line.")
    for number, name in enumerate(names, start=1):
        if not name.strip():
            raise VocabularyError(f"{path}, line {number}: empty. Put one tag on each line.")
    return names


def read_thresholds(path: Path) -> list[float]:
    """One number in [0, 1] per line.

    Raises:
        VocabularyError: it can't be read, or a line is no such number.
    """
    values = []
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        try:
            value = float(line)
        except ValueError:
            value = math.nan
        if not is_probability(value):
            raise VocabularyError(f"{path}, line {number}: {line!r} is no number between 0 and 1. Correct that line.")
        values.append(value)
    return values


def write_tags(path: Path, entries: Sequence[dict[str, Any]]) -> None:
    """Writes the JSON file of a vocabulary in one step; empty lists are left out."""
    kept = [{key: value for key, value in entry.items() if key not in _LISTS or value} for entry in entries]
    lines = ",\n".join(json.dumps(entry, ensure_ascii=False, separators=(",", ":")) for entry in kept)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    temporary = Path(name)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(f'{{"format":{FORMAT},"tags":[\n{lines}\n]}}\n')
        temporary.chmod(0o644)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def read_tags(path: Path) -> list[dict[str, Any]]:
    """Reads what `write_tags` wrote: fields of one tag each, lists as tuples.

    Raises:
        VocabularyError: it can't be read, is no JSON, has another format, or a tag's fields have other types; names
            the tag and its line.
    """
    data = read_json(path)
    if not isinstance(data, dict) or data.get("format") != FORMAT or not isinstance(data.get("tags"), list):
        raise VocabularyError(
            f'{path}: not a vocabulary of format {FORMAT} (an object with "format" and "tags"). Write it again.'
        )
    return [
        _checked(entry, f"{path}, tag {number} (line {number + 1})") for number, entry in enumerate(data["tags"], 1)
    ]


def _checked(entry: object, place: str) -> dict[str, Any]:
    if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
        raise VocabularyError(f'{place}: not an object with a "name". Repair that entry.')
    known = ("name", "category", "threshold", *_LISTS)
    unknown = [key for key in entry if key not in known]
    if unknown:
        raise VocabularyError(f"{place}: unknown field {unknown[0]!r}. Known are: {', '.join(known)}.")
    fields = dict(entry)
    for field in _LISTS:
        value = entry.get(field, [])
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise VocabularyError(f'{place}: "{field}" is not a list of strings. Repair that entry.')
        fields[field] = tuple(value)
    return fields

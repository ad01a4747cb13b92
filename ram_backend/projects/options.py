"""What admins settle for a project: tags, thresholds and how many tags are shown; parsed strictly, merged by force."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from types import MappingProxyType
from typing import Any, TypeVar

from ram_backend.errors import ProjectOptionsError

MAX_TAGS = 50_000
MAX_TAG_LENGTH = 500
MAX_TOP_K = 1_000_000
_MAX_TEXT = 20_000_000

_ALIASES = {
    "tags": ("tags", "labels", "tag_list"),
    "threshold": ("threshold", "model_score_threshold", "score_threshold", "confidence_threshold"),
    "per_tag": ("per_tag", "per_tag_threshold", "per_tag_thresholds", "tag_thresholds", "thresholds"),
    "top_k": ("top_k", "topk", "model_top_k"),
    "precision": ("precision", "min_precision", "model_min_precision"),
}
_FIELDS = {alias: name for name, aliases in _ALIASES.items() for alias in aliases}
_ALLOWED_TAGS = 'a list of tags, such as ["cat", "dog"], or one text with commas between them'
_ALLOWED_THRESHOLD = "a number from 0 to 1"
_ALLOWED_PER_TAG = 'an object with a number from 0 to 1 per tag, such as {"cat": 0.4}'
_ALLOWED_TOP_K = f"a whole number from 1 to {MAX_TOP_K}"
_ALLOWED_KEYS = "tags, threshold, per_tag, top_k, precision"

_NOTHING: Mapping[str, float] = MappingProxyType({})
T = TypeVar("T")


@dataclass(frozen=True)
class ProjectOptions:
    """Admins' settings from one source; None (or no entry) means that this source doesn't say.

    Attributes:
        tags: which tags are asked for, in this order, each once.
        threshold: for all tags; in [0, 1]. A tag is on where its score is strictly above.
        per_tag: threshold of single tags, by name; each in [0, 1].
        top_k: at most this many tags are shown, the best ones; >= 1.
        precision: tick a tag only where at least this share of such ticks is right, by the calibration; in [0, 1]. In
            place of `threshold`: one source says at most one of the two.
    """

    tags: tuple[str, ...] | None = None
    threshold: float | None = None
    per_tag: Mapping[str, float] = field(default_factory=lambda: _NOTHING, hash=False)
    top_k: int | None = None
    precision: float | None = None

    def __bool__(self) -> bool:
        return bool(self.to_json())

    def threshold_of(self, tag: str, default: float) -> float:
        """The threshold of one tag: its own where there is one, else that for all, else the default."""
        return self.per_tag.get(tag, default if self.threshold is None else self.threshold)

    def to_json(self) -> dict[str, Any]:
        """What `parse_options` reads back; fields that are not given are left out."""
        values: dict[str, Any] = {
            "tags": None if self.tags is None else list(self.tags),
            "threshold": self.threshold,
            "per_tag": dict(self.per_tag) or None,
            "top_k": self.top_k,
            "precision": self.precision,
        }
        return {name: value for name, value in values.items() if value is not None}


def merge(*options: ProjectOptions) -> ProjectOptions:
    """One from several, strongest first: field by field the first that says something; `per_tag` tag by tag.

    A threshold of a single tag is more special than one for all: it holds also where that is from a stronger source.
    Threshold and precision say the same thing in two ways: of both the strongest source's one holds alone.
    """
    per_tag: dict[str, float] = {}
    for weaker in reversed(options):
        per_tag.update(weaker.per_tag)
    how = next((each for each in options if each.threshold is not None or each.precision is not None), None)
    return ProjectOptions(
        tags=_first([each.tags for each in options]),
        threshold=None if how is None else how.threshold,
        per_tag=MappingProxyType(per_tag),
        top_k=_first([each.top_k for each in options]),
        precision=None if how is None else how.precision,
    )


def parse_options(value: object, *, source: str = "Extra params of the connection") -> ProjectOptions:
    """Reads admins' settings, as Label Studio's `/setup` brings them: an object, a JSON text, or null.

    Keys may also have the names usual in other backends (`model_score_threshold`, `score_threshold`, ...), in any case
    and with hyphens; a key whose value is null is not given.

    Args:
        value: a mapping, a text with JSON, or None. A blank text is None.
        source: what the error message begins with.

    Raises:
        ProjectOptionsError: names the first key that can't be used, its value and what is allowed.
    """
    given = _mapping(value, source)
    found: dict[str, tuple[str, object]] = {}
    for key, entry in given.items():
        name = _FIELDS.get(_folded(key))
        if name is None:
            raise ProjectOptionsError(_unknown(key, entry, source))
        if entry is None:
            continue
        if name in found and found[name][1] != entry:
            other = found[name][0]
            raise ProjectOptionsError(f"{source}: {other!r} and {key!r} mean the same and differ; give one of them.")
        found[name] = (str(key).strip(), entry)

    if "threshold" in found and "precision" in found:
        raise ProjectOptionsError(
            f"{source}: {found['threshold'][0]!r} and {found['precision'][0]!r} both say where tags are ticked; give"
            " one of them."
        )

    def read(name: str, reader: Callable[[object], T | None], allowed: str) -> T | None:
        if name not in found:
            return None
        key, entry = found[name]
        result = reader(entry)
        if result is None:
            raise ProjectOptionsError(f"{source}: {key}={_shown(entry)} can't be used; allowed: {allowed}.")
        return result

    return ProjectOptions(
        tags=read("tags", _tags, f"{_ALLOWED_TAGS}, each of at most {MAX_TAG_LENGTH} characters"),
        threshold=read("threshold", _threshold, _ALLOWED_THRESHOLD),
        per_tag=_per_tag(found["per_tag"], source) if "per_tag" in found else _NOTHING,
        top_k=read("top_k", _top_k, _ALLOWED_TOP_K),
        precision=read("precision", _threshold, _ALLOWED_THRESHOLD),
    )


class _TwiceError(ValueError):
    """A key occurs twice in one JSON object."""


def _mapping(value: object, source: str) -> Mapping[Any, object]:
    if isinstance(value, str):
        text, value = value, None
        if text.strip():
            try:
                value = json.loads(text[: _MAX_TEXT + 1], object_pairs_hook=_unique)
            except _TwiceError as error:
                raise ProjectOptionsError(f"{source}: the key {error} occurs twice; give it once.") from None
            except (ValueError, RecursionError):
                expected = 'a JSON object such as {"threshold": 0.5}, or nothing'
                raise ProjectOptionsError(f"{source}: {_shown(text)} is no JSON; allowed: {expected}.") from None
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        expected = f"an object with some of the keys {_ALLOWED_KEYS}"
        raise ProjectOptionsError(f"{source}: {_shown(value)} is no object; allowed: {expected}, or nothing.")
    return value


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    result: dict[str, object] = {}
    for key, value in pairs:
        if key in result:
            raise _TwiceError(_shown(key))
        result[key] = value
    return result


def _folded(key: object) -> str:
    return key.strip().lower().replace("-", "_") if isinstance(key, str) else ""


def _unknown(key: object, value: object, source: str) -> str:
    close = get_close_matches(_folded(key)[:60], _FIELDS, n=1)
    hint = f" (did you mean {close[0]}?)" if close else ""
    return f"{source}: {_shown(key)}={_shown(value)}: there is no such key{hint}; allowed: {_ALLOWED_KEYS}."


def _tags(value: object) -> tuple[str, ...] | None:
    if isinstance(value, str):
        parts: Sequence[object] = [part for part in re.split(r"[,\n]", value) if part.strip()]
    elif isinstance(value, list | tuple):
        parts = value
    else:
        return None
    if not 1 <= len(parts) <= MAX_TAGS:
        return None
    names = [_name(part) for part in parts]
    return None if None in names else tuple(dict.fromkeys(name for name in names if name is not None))


def _name(value: object) -> str | None:
    """A tag's name as a database can keep it (no NUL, no half of a surrogate pair); None: it is none."""
    if not isinstance(value, str) or not 1 <= len(value.strip()) <= MAX_TAG_LENGTH:
        return None
    return None if "\0" in value or any("\ud800" <= letter <= "\udfff" for letter in value) else value.strip()


def _threshold(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if 0 <= value <= 1 else None  # false for NaN


def _top_k(value: object) -> int | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(min(value, MAX_TOP_K + 1)):
        return None
    return int(value) if 1 <= value <= MAX_TOP_K and value == int(value) else None


def _per_tag(found: tuple[str, object], source: str) -> Mapping[str, float]:
    key, value = found
    if not isinstance(value, Mapping) or len(value) > MAX_TAGS:
        raise ProjectOptionsError(f"{source}: {key}={_shown(value)} can't be used; allowed: {_ALLOWED_PER_TAG}.")
    result: dict[str, float] = {}
    for tag, number in value.items():
        name, threshold = _name(tag), _threshold(number)
        if name is None or threshold is None:
            where = f"{key}[{_shown(tag)}]={_shown(number)}"
            raise ProjectOptionsError(f"{source}: {where} can't be used; allowed: {_ALLOWED_PER_TAG}.")
        result[name] = threshold
    return MappingProxyType(result)


def _shown(value: object) -> str:
    """A value as an error shows it: on one line, and short. Numbers too long to print are said to be so."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):
        text = f"a very long {type(value).__name__}"
    return text if len(text) <= 80 else f"{text[:77]}..."


def _first(values: Sequence[T | None]) -> T | None:
    return next((value for value in values if value is not None), None)

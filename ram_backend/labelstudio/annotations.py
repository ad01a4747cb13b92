"""Parser of annotations and their results, with a canonical JSON form."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from pydantic import TypeAdapter

from ram_backend.labelstudio.schema import REGIONS, VALUE_KEYS, ControlKind, TagControl, text_of

MAX_STATEMENT_CHARS = 1_000_000
"""Longest canonical JSON of one statement: RAM's 4,585 tags fit."""

MAX_TASK_DATA_CHARS = 100_000
"""Longest JSON of a task's data; its longest values are left out."""

MAX_LINE_CHARS = 100
"""A longer line of a text is a comment or a caption, not a tag."""

MAX_CAPTION_CHARS = 1000
"""Longer lines are left out of a statement."""

_CONFIDENCE = re.compile(r".*\S\s+\d{1,3}%", re.DOTALL)
ChoiceId = tuple[str, ...]
"""Identity of a choice within its control: its path; of a flat list (its value,)."""

_LARGEST_ID = 2**63 - 1
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True)
class ParsedItem:
    """The result of one tag control.

    Attributes:
        values: paths of the ticked choices, of one step except in nested lists;
            the labels of all regions, each once; the lines of a text.
    """

    from_name: str
    to_name: str
    kind: ControlKind
    values: tuple[ChoiceId, ...]


@dataclass(frozen=True)
class ParsedAnnotation:
    """An annotation's statement about the tags of a task.

    Attributes:
        updated_us: its last change by Label Studio's clock, in microseconds
            since 1970, UTC; 0: not given. It orders the statements of an
            annotation and is not part of `canonical`.
        created_us: its creation, likewise.
        completed_by: id of the user; None: not given.
        was_cancelled: the task was skipped, and the items are the model's own.
        ground_truth: the project's owner vouches for it.
        parent_prediction: id of the prediction that it started from; None:
            none, or not given.
        auto_created: "create annotations from predictions" made it:
            `parent_prediction` is set, `lead_time` and `updated_by` are null
            (protocol section 7: `ANNOTATIONS_CREATED`). An edit sets
            `updated_by`.
        items: results of possible tag controls. None at all is a statement,
            too: no tags.
    """

    id: int
    task: int
    updated_us: int
    created_us: int
    completed_by: int | None
    was_cancelled: bool
    ground_truth: bool
    parent_prediction: int | None
    auto_created: bool
    items: tuple[ParsedItem, ...]

    @property
    def usable(self) -> bool:
        """Whether it may be learned from."""
        return not self.was_cancelled and not self.auto_created

    @property
    def updated_at(self) -> datetime | None:
        """Time of the last change; None: not given."""
        return _EPOCH + self.updated_us * _MICROSECOND if self.updated_us else None

    @property
    def created_at(self) -> datetime | None:
        """Time of the creation; None: not given."""
        return _EPOCH + self.created_us * _MICROSECOND if self.created_us else None

    def canonical(self) -> str:
        """Canonical JSON: equal statements have equal texts."""
        fields = asdict(self)
        del fields["updated_us"]
        fields["unseen"] = fields.pop("auto_created")  # its name in the ledger
        return canonical_json(fields)

    @classmethod
    def from_canonical(cls, text: str, *, updated_us: int) -> ParsedAnnotation:
        """The statement that `canonical` wrote."""
        fields = json.loads(text)
        fields["auto_created"] = fields.pop("unseen")
        return _PARSED.validate_python({**fields, "updated_us": updated_us})


_PARSED = TypeAdapter(ParsedAnnotation)


def read_annotation(annotation: Mapping[str, Any], *, task: int | None = None) -> ParsedAnnotation | None:
    """The statement of an annotation of a webhook or of the API; raises nothing.

    Fields of wrong types count as missing. None: it has no number or no task
    (nor `task`), or its canonical JSON is longer than `MAX_STATEMENT_CHARS`.
    """
    number, of_task = parse_id(annotation.get("id")), parse_id(annotation.get("task")) or task
    result = annotation.get("result")
    if number is None or of_task is None or not isinstance(result, list | None):
        return None
    parent = parse_id(annotation.get("parent_prediction"))
    cancelled = annotation.get("was_cancelled") is True
    untouched = annotation.get("lead_time") is None and annotation.get("updated_by") is None
    parsed = ParsedAnnotation(
        id=number,
        task=of_task,
        updated_us=unix_microseconds(annotation.get("updated_at")),
        created_us=unix_microseconds(annotation.get("created_at")),
        completed_by=parse_id(annotation.get("completed_by")),
        was_cancelled=cancelled,
        ground_truth=annotation.get("ground_truth") is True,
        parent_prediction=parent,
        auto_created=parent is not None and untouched and not cancelled,
        items=read_items(result or ()),
    )
    return parsed if len(parsed.canonical()) <= MAX_STATEMENT_CHARS else None


def read_items(result: Iterable[object]) -> tuple[ParsedItem, ...]:
    """The items of tag controls in a result, with the regions of one control merged.

    Left out are read-only regions, our confidences ("cat  93%"), texts of single
    regions, and lines of more than `MAX_CAPTION_CHARS`.
    """
    found: dict[object, ParsedItem] = {}
    for item in filter(None, map(_read_item, result)):
        key: object = (item.from_name, item.to_name, item.kind) if item.kind in REGIONS else len(found)
        earlier = found[key].values if key in found else ()
        found[key] = replace(item, values=tuple(dict.fromkeys([*earlier, *item.values])))
    return tuple(found.values())


def normalise_line(text: str, limit: int = MAX_LINE_CHARS) -> str | None:
    """A line, by default a tag, with normalised whitespace; None: too long, or empty."""
    return (" ".join(text.split()) or None) if len(text) <= limit else None


def _read_item(item: object) -> ParsedItem | None:
    if not isinstance(item, Mapping) or not isinstance(item.get("type"), str) or item["type"] not in VALUE_KEYS:
        return None
    kind: ControlKind = item["type"]
    from_name, to_name, value = item.get("from_name"), item.get("to_name"), item.get("value")
    if not isinstance(value, Mapping) or not isinstance(from_name, str) or not isinstance(to_name, str):
        return None
    entries = value.get(VALUE_KEYS[kind])
    if not isinstance(entries, list | str):
        return None
    paths = [_path(entry) for entry in ([entries] if isinstance(entries, str) else entries)]
    if kind == "textarea":
        paths = [] if len(value) > 1 else _lines(paths)
    if (kind == "textarea" and not paths) or (kind in REGIONS and item.get("readonly") is True):
        return None
    return ParsedItem(_storable(from_name), _storable(to_name), kind, tuple(path for path in paths if path))


def _lines(paths: Iterable[ChoiceId]) -> list[ChoiceId]:
    """Lines that may be tags or captions; none where all are confidences."""
    lines = [path[0] for path in paths if len(path) == 1]
    if all(_CONFIDENCE.fullmatch(line) for line in lines):
        return []
    return [(text,) for line in lines if (text := normalise_line(line, MAX_CAPTION_CHARS)) is not None]


def ticked_paths(control: TagControl, items: Iterable[ParsedItem]) -> dict[ChoiceId, None]:
    """Paths of a control in a result, each once; also those that it no longer offers."""
    mine = (item for item in items if (item.from_name, item.kind) == (control.name, control.kind))
    return {
        path: None for item in mine for path in item.values if not control.free_text or len(path[0]) <= MAX_LINE_CHARS
    }


def caption_in(control: str, items: Iterable[ParsedItem]) -> str:
    """The text of a caption's control in a result, in one line; "": none."""
    mine = (item for item in items if (item.from_name, item.kind) == (control, "textarea"))
    return " ".join(path[0] for item in mine for path in item.values)


def _path(entry: object) -> ChoiceId:
    texts = [text_of(step) for step in (entry if isinstance(entry, list) else [entry])]
    return tuple(_storable(text) for text in texts if text is not None) if None not in texts else ()


def _storable(text: str) -> str:
    return text.encode("utf-8", "replace").decode()


def parse_id(value: object) -> int | None:
    """An id: a positive integer, also as digits or an object's `id`; else None."""
    if isinstance(value, Mapping):
        value = value.get("id")
    if isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) < 20:
        value = int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 < value <= _LARGEST_ID else None


def canonical_json(value: object) -> str:
    """Sorted JSON without whitespace and NUL: equal for equal values."""
    text = json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return text.encode("utf-8", "replace").decode()


def content_hash(canonical: str) -> str:
    """sha256 of a statement, in hex."""
    return hashlib.sha256(canonical.encode()).hexdigest()


def trimmed_task_data(data: object, limit: int = MAX_TASK_DATA_CHARS) -> str | None:
    """A task's data as JSON of at most `limit` characters, without the longest values."""
    if not isinstance(data, Mapping) or not data:
        return None
    try:
        parts = {str(key): canonical_json(value) for key, value in data.items()}
    except (TypeError, ValueError, RecursionError):
        return None
    fitting: dict[str, Any] = {}
    room = limit - 1  # two braces, and one comma less than there are entries
    for key in sorted(parts, key=lambda key: (len(parts[key]), key)):
        room -= len(parts[key]) + len(canonical_json(key)) + 2
        if room < 0:
            break
        fitting[key] = data.get(key)
    return canonical_json(fitting)


def unix_microseconds(value: object) -> int:
    """Microseconds since 1970 of an ISO time; 0 where it is none."""
    if not isinstance(value, str):
        return 0
    try:
        moment = datetime.fromisoformat(value.strip())
        return max(0, ((moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - _EPOCH) // _MICROSECOND)
    except (ValueError, OverflowError):
        return 0

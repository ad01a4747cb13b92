"""What tag controls say in a result: of an annotation or of a prediction, in the JSON of a webhook or of the API."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from ram_backend.labelstudio.plan import VALUE_KEYS, Kind, TagControl

MAX_LINE_CHARS = 100
"""A longer line of a text is no tag: nobody reads tags of such a length, and comments are nobody's business here."""

_REGIONS = ("labels", "rectanglelabels")
_CONFIDENCE = re.compile(r".*\S\s+\d{1,3}%", re.DOTALL)
ChoiceId = tuple[str, ...]
"""What tells one choice of a control from the others: its path; of a flat list (its value,)."""


@dataclass(frozen=True)
class StatedItem:
    """What one tag control says.

    Attributes:
        from_name: the control's name.
        to_name: its image's name.
        kind: of the control.
        values: paths of what is ticked, as the result says them; of all but nested lists paths of one step. Of labels
            those of all regions together, each once: where they are is not kept. Of texts the lines.
    """

    from_name: str
    to_name: str
    kind: Kind
    values: tuple[ChoiceId, ...]


def read_items(result: Iterable[object]) -> tuple[StatedItem, ...]:
    """What tag controls say in a result: of those whose tags are regions one item each.

    Left out is what a model has said and nobody can change: read-only regions, and texts that are confidences as our
    predictions write them ("cat  93%"). So are the texts of single regions, and long lines.
    """
    found: list[StatedItem] = []
    regions: dict[tuple[str, str, str], int] = {}
    for each in result:
        item = _read_item(each)
        if item is None:
            continue
        key = (item.from_name, item.to_name, item.kind)
        if item.kind not in _REGIONS:
            found.append(item)
        elif key not in regions:
            regions[key] = len(found)
            found.append(item)
        else:
            before = found[regions[key]]
            together = tuple(dict.fromkeys([*before.values, *item.values]))
            found[regions[key]] = replace(before, values=together)
    return tuple(found)


def as_line(text: str) -> str | None:
    """A tag as a line of a text says it: blanks as one, none around it; None where it is too long, or empty."""
    return (" ".join(text.split()) or None) if len(text) <= MAX_LINE_CHARS else None


def _read_item(item: object) -> StatedItem | None:
    if not isinstance(item, Mapping) or not isinstance(item.get("type"), str) or item["type"] not in VALUE_KEYS:
        return None
    kind: Kind = item["type"]
    names, value = (item.get("from_name"), item.get("to_name")), item.get("value")
    if not isinstance(value, Mapping):
        return None
    said = value.get(VALUE_KEYS[kind])
    if not isinstance(names[0], str) or not isinstance(names[1], str) or not isinstance(said, list | str):
        return None
    paths = [_path(entry) for entry in ([said] if isinstance(said, str) else said)]
    if kind == "textarea":
        paths = [] if len(value) > 1 else _lines(paths)
    if (kind == "textarea" and not paths) or (kind in _REGIONS and item.get("readonly") is True):
        return None
    values = tuple(dict.fromkeys(path for path in paths if path))
    return StatedItem(from_name=_storable(names[0]), to_name=_storable(names[1]), kind=kind, values=values)


def _lines(paths: Iterable[ChoiceId]) -> list[ChoiceId]:
    """Lines that may be tags, without blanks around them; none where all are confidences."""
    lines = [path[0] for path in paths if len(path) == 1]
    if all(_CONFIDENCE.fullmatch(line) for line in lines):
        return []
    return [(tag,) for line in lines if (tag := as_line(line)) is not None]


def said_in(control: TagControl, items: Iterable[StatedItem]) -> dict[ChoiceId, None]:
    """Paths that a control has in a result, in order, each once; also those that it doesn't know any more."""
    mine = (item for item in items if (item.from_name, item.kind) == (control.name, control.kind))
    return {path: None for item in mine for path in item.values}


def _path(entry: object) -> ChoiceId:
    steps = entry if isinstance(entry, list) else [entry]
    texts = [_text(step) for step in steps]
    return tuple(text for text in texts if text is not None) if None not in texts else ()


def _text(step: object) -> str | None:
    if isinstance(step, str):
        return _storable(step)
    return str(step) if isinstance(step, int | float) and not isinstance(step, bool) else None


def _storable(text: str) -> str:
    return text.encode("utf-8", "replace").decode()

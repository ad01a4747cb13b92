"""Projection (read model) of ledger events: the latest annotation per id, independent of their order. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

from ram_backend.feedback.events import LabelSpace
from ram_backend.labelstudio.annotations import ParsedAnnotation


class EventHeader(NamedTuple):
    """A `FeedbackEvent` without its statement."""

    event_id: int
    kind: str
    annotation_id: int
    task_id: int
    updated_us: int
    content: str
    usable: bool


@dataclass(frozen=True)
class CurrentAnnotation:
    """The latest statement of an annotation.

    Attributes:
        task_data: of its task; {}: not known.
        offered: the tags that could be chosen then; None: not known.
        received_at: when the event came.
    """

    event_id: int
    parsed: ParsedAnnotation
    task_data: Mapping[str, Any] = field(repr=False)
    offered: LabelSpace | None = field(repr=False)
    received_at: datetime


@dataclass(frozen=True)
class AnnotationChanges:
    """Number of usable annotations that were added, edited or withdrawn between two moments."""

    added: int = 0
    edited: int = 0
    withdrawn: int = 0

    @property
    def total(self) -> int:
        """All of them."""
        return self.added + self.edited + self.withdrawn


@dataclass(frozen=True)
class Fingerprint:
    """Identity of the usable annotations: equal fingerprints mean equal corrections.

    Attributes:
        count: number of annotations.
        first_event, last_event: the earliest and the latest of their events; 0:
            none.
        hash: sha256 of their ids and contents, independent of the order of
            events.
    """

    count: int
    first_event: int
    last_event: int
    hash: str


def current(headers: Iterable[EventHeader]) -> dict[int, EventHeader]:
    """The current annotations: the latest statement of each one that still exists, by its id, ascending.

    The latest has the greatest `updated_us`, then the greatest content hash. An
    annotation is gone if it or its task was deleted, whichever event came
    first, or if the last listing that should have had it lacked it.
    """
    headers = list(headers)
    latest: dict[int, EventHeader] = {}
    for header in headers:
        if header.kind == "stated":
            latest[header.annotation_id] = max(latest.get(header.annotation_id, header), header, key=_precedence)
    gone = missing(headers) | {header.annotation_id for header in headers if header.kind == "annotation_deleted"}
    tasks = {header.task_id for header in headers if header.kind == "task_deleted"}
    return {
        number: header
        for number, header in sorted(latest.items())
        if number not in gone and header.task_id not in tasks
    }


def missing(headers: Iterable[EventHeader]) -> set[int]:
    """Annotations that the last listing that should have had them lacked."""
    listed: dict[int, tuple[int, bool]] = {}  # when the listing began, and whether it had the annotation
    for header in headers:
        if header.kind in ("annotation_missing", "annotation_found"):
            seen = (header.updated_us, header.kind == "annotation_found")
            listed[header.annotation_id] = max(listed.get(header.annotation_id, seen), seen)
    return {number for number, (_, found) in listed.items() if not found}


def changes(before: Mapping[int, EventHeader], after: Mapping[int, EventHeader]) -> AnnotationChanges:
    """Differences between the usable ones of two sets of current annotations."""
    old, new = _contents(before), _contents(after)
    both = old.keys() & new.keys()
    return AnnotationChanges(
        added=len(new.keys() - old.keys()),
        edited=sum(old[number] != new[number] for number in both),
        withdrawn=len(old.keys() - new.keys()),
    )


def fingerprint(annotations: Mapping[int, EventHeader]) -> Fingerprint:
    """Fingerprint of the usable ones of the current annotations."""
    contents = _contents(annotations)
    events = [annotations[number].event_id for number in contents]
    text = "".join(f"{number} {contents[number]}\n" for number in sorted(contents))
    return Fingerprint(
        count=len(events),
        first_event=min(events, default=0),
        last_event=max(events, default=0),
        hash=hashlib.sha256(text.encode()).hexdigest(),
    )


def _contents(annotations: Mapping[int, EventHeader]) -> dict[int, str]:
    """Content hash of each usable annotation."""
    return {number: header.content for number, header in annotations.items() if header.usable}


def _precedence(header: EventHeader) -> tuple[int, str, int]:
    """Of two rows of a statement (before and after the project was known) the first counts."""
    return (header.updated_us, header.content, -header.event_id)

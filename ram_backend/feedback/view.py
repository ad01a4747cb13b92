"""Current truth: a view over immutable events, independent of the order in which they came. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

from ram_backend.feedback.events import LabelSpace
from ram_backend.labelstudio.annotations import StatedAnnotation


class EventLine(NamedTuple):
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
    stated: StatedAnnotation
    task_data: Mapping[str, Any] = field(repr=False)
    offered: LabelSpace | None = field(repr=False)
    received_at: datetime


@dataclass(frozen=True)
class Changes:
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
    """Identity of the usable annotations: equal fingerprints, equal corrections.

    Attributes:
        count: number of annotations.
        first_event, last_event: the earliest and the latest of their events; 0:
            none.
        hash: sha256 of their numbers and contents, independent of the order of
            events.
    """

    count: int
    first_event: int
    last_event: int
    hash: str


def current(lines: Iterable[EventLine]) -> dict[int, EventLine]:
    """The current truth: the latest statement of each annotation that still exists, by its number, ascending.

    The latest has the greatest `updated_us`, then the greatest content hash. An
    annotation is gone if it or its task was deleted, whichever event came
    first, or if the last listing that should have had it lacked it.
    """
    lines = list(lines)
    latest: dict[int, EventLine] = {}
    for line in lines:
        if line.kind == "stated":
            latest[line.annotation_id] = max(latest.get(line.annotation_id, line), line, key=_precedence)
    gone = missing(lines) | {line.annotation_id for line in lines if line.kind == "annotation_deleted"}
    tasks = {line.task_id for line in lines if line.kind == "task_deleted"}
    return {number: line for number, line in sorted(latest.items()) if number not in gone and line.task_id not in tasks}


def missing(lines: Iterable[EventLine]) -> set[int]:
    """Annotations that the last listing that should have had them lacked."""
    listed: dict[int, tuple[int, bool]] = {}  # when the listing began, and whether it had the annotation
    for line in lines:
        if line.kind in ("annotation_missing", "annotation_found"):
            seen = (line.updated_us, line.kind == "annotation_found")
            listed[line.annotation_id] = max(listed.get(line.annotation_id, seen), seen)
    return {number for number, (_, found) in listed.items() if not found}


def changes(before: Mapping[int, EventLine], after: Mapping[int, EventLine]) -> Changes:
    """Differences between the usable parts of two current truths."""
    old, new = _contents(before), _contents(after)
    both = old.keys() & new.keys()
    return Changes(
        added=len(new.keys() - old.keys()),
        edited=sum(old[number] != new[number] for number in both),
        withdrawn=len(old.keys() - new.keys()),
    )


def fingerprint(truth: Mapping[int, EventLine]) -> Fingerprint:
    """Fingerprint of the usable part of a current truth."""
    contents = _contents(truth)
    events = [truth[number].event_id for number in contents]
    text = "".join(f"{number} {contents[number]}\n" for number in sorted(contents))
    return Fingerprint(
        count=len(events),
        first_event=min(events, default=0),
        last_event=max(events, default=0),
        hash=hashlib.sha256(text.encode()).hexdigest(),
    )


def _contents(truth: Mapping[int, EventLine]) -> dict[int, str]:
    """Content hash of each usable annotation."""
    return {number: line.content for number, line in truth.items() if line.usable}


def _precedence(line: EventLine) -> tuple[int, str, int]:
    """Of two rows of a statement (before and after the project was known) the first counts."""
    return (line.updated_us, line.content, -line.event_id)

"""From events to the current truth: pure, and the same whatever order the events came in."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

from ram_backend.feedback.offered import Offered
from ram_backend.labelstudio.annotations import StatedAnnotation


class EventLine(NamedTuple):
    """An event without what was stated: see `FeedbackEvent`."""

    event_id: int
    kind: str
    annotation_id: int
    task_id: int
    updated_us: int
    content: str
    usable: bool


@dataclass(frozen=True)
class CurrentAnnotation:
    """What an annotation says now.

    Attributes:
        event_id: of the event that brought it.
        stated: what was said.
        task_data: of its task; {} where it is not known.
        offered: the tags that there were to choose from; None: not known.
        received_at: when the event came.
    """

    event_id: int
    stated: StatedAnnotation
    task_data: Mapping[str, Any] = field(repr=False)
    offered: Offered | None = field(repr=False)
    received_at: datetime

    @property
    def usable(self) -> bool:
        """Whether it may be learned from."""
        return self.stated.usable


@dataclass(frozen=True)
class Changes:
    """What became of the corrections that may be learned from, between two moments: numbers of annotations."""

    added: int = 0
    edited: int = 0
    withdrawn: int = 0

    @property
    def total(self) -> int:
        """All of them."""
        return self.added + self.edited + self.withdrawn


@dataclass(frozen=True)
class Fingerprint:
    """Which corrections there are to learn from: equal fingerprints, equal corrections.

    Attributes:
        count: of annotations.
        first_event: the earliest of their events; 0: there are none.
        last_event: the latest of their events; 0: there are none.
        hash: sha256 of their numbers and contents. It says nothing of the order in which events came.
    """

    count: int
    first_event: int
    last_event: int
    hash: str


def current(lines: Iterable[EventLine]) -> dict[int, EventLine]:
    """The current truth: per annotation that is still there its latest statement.

    The latest is the one of the latest `updated_us`, of several of those the one of the greatest content hash. Gone is
    what a deletion names, the annotation or its task, whichever came first; and what the last listing that speaks of it
    lacked.

    Args:
        lines: of one project, in any order, each any number of times.

    Returns:
        By number of the annotation, in order of it.
    """
    latest: dict[int, EventLine] = {}
    deleted: set[int] = set()
    deleted_tasks: set[int] = set()
    listed: dict[int, tuple[int, bool]] = {}  # when the last listing began that speaks of it, and whether it had it
    for line in lines:
        if line.kind == "stated":
            known = latest.get(line.annotation_id)
            if known is None or _force(line) > _force(known):
                latest[line.annotation_id] = line
        elif line.kind == "annotation_deleted":
            deleted.add(line.annotation_id)
        elif line.kind == "task_deleted":
            deleted_tasks.add(line.task_id)
        else:
            said = (line.updated_us, line.kind == "annotation_found")
            listed[line.annotation_id] = max(listed.get(line.annotation_id, said), said)
    return {
        number: latest[number]
        for number in sorted(latest)
        if number not in deleted and latest[number].task_id not in deleted_tasks and listed.get(number, (0, True))[1]
    }


def missing(lines: Iterable[EventLine]) -> set[int]:
    """Annotations that are gone because a listing lacked them: should a later one have them, they are back."""
    listed: dict[int, tuple[int, bool]] = {}
    for line in lines:
        if line.kind in ("annotation_missing", "annotation_found"):
            said = (line.updated_us, line.kind == "annotation_found")
            listed[line.annotation_id] = max(listed.get(line.annotation_id, said), said)
    return {number for number, (_, found) in listed.items() if not found}


def usable(truth: Mapping[int, EventLine]) -> dict[int, EventLine]:
    """Of the current truth what may be learned from."""
    return {number: line for number, line in truth.items() if line.usable}


def changes(before: Mapping[int, EventLine], after: Mapping[int, EventLine]) -> Changes:
    """What differs between two current truths, in what may be learned from; a statement repeated is no change."""
    old = {number: line.content for number, line in usable(before).items()}
    new = {number: line.content for number, line in usable(after).items()}
    both = old.keys() & new.keys()
    return Changes(
        added=len(new.keys() - old.keys()),
        edited=sum(old[number] != new[number] for number in both),
        withdrawn=len(old.keys() - new.keys()),
    )


def fingerprint(truth: Mapping[int, EventLine]) -> Fingerprint:
    """Of what may be learned from."""
    lines = usable(truth)
    events = [line.event_id for line in lines.values()]
    text = "".join(f"{number} {lines[number].content}\n" for number in sorted(lines))
    return Fingerprint(
        count=len(lines),
        first_event=min(events, default=0),
        last_event=max(events, default=0),
        hash=hashlib.sha256(text.encode()).hexdigest(),
    )


def _force(line: EventLine) -> tuple[int, str, int]:
    """The same statement may stand in two rows (before and after the project was known): the first of them counts."""
    return (line.updated_us, line.content, -line.event_id)

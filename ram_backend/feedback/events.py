"""Ledger events from webhooks and listings, and their projection (read model).

Events are trimmed, each with an identity of its own; the projection is the
latest annotation per id, independent of their order. Pure.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from typing import Any, Literal, NamedTuple

from ram_backend.errors import LabelConfigError
from ram_backend.labelstudio.annotations import (
    ChoiceId,
    ParsedAnnotation,
    canonical_json,
    content_hash,
    parse_id,
    read_annotation,
    trimmed_task_data,
)
from ram_backend.labelstudio.label_config import parse_label_config
from ram_backend.labelstudio.request_models import EventProject, WebhookRequest
from ram_backend.labelstudio.schema import LabelSchema

EventKind = Literal["stated", "annotation_deleted", "task_deleted", "annotation_missing", "annotation_found"]
"""`stated`: an annotation as it was then.

`annotation_deleted`, `task_deleted`: Label Studio's tombstones, final.
`annotation_missing`: a complete listing lacked it; `annotation_found`: no more.
"""

STATING = frozenset({"ANNOTATION_CREATED", "ANNOTATION_UPDATED", "ANNOTATIONS_CREATED", "ANNOTATIONS_UPDATED"})
DELETING = frozenset({"ANNOTATION_DELETED", "ANNOTATIONS_DELETED"})
DELETING_TASKS = frozenset({"TASK_DELETED", "TASKS_DELETED"})

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LabelSpace:
    """The fixed choices of a label config then: others were unknown, not off.

    Attributes:
        digest: sha256 of `to_json`.
        choices: control name -> paths of its fixed choices. Dynamic choices
            come with each task and are not included.
    """

    digest: str
    choices: dict[str, frozenset[ChoiceId]] = field(repr=False, compare=False)

    @classmethod
    def of(cls, schema: LabelSchema) -> LabelSpace:
        """The label space of a label config."""
        space = cls("", {each.name: frozenset(choice.path for choice in each.choices) for each in schema.tag_controls})
        return cls(hashlib.sha256(space.to_json().encode()).hexdigest(), space.choices)

    def to_json(self) -> str:
        """Canonical JSON, without the digest."""
        return canonical_json({name: sorted(paths) for name, paths in self.choices.items()})

    @classmethod
    def from_json(cls, text: str, digest: str) -> LabelSpace:
        """Reads what `to_json` wrote."""
        choices = json.loads(text)
        return cls(digest, {name: frozenset(tuple(path) for path in paths) for name, paths in choices.items()})


@lru_cache(maxsize=64)
def label_space_of(label_config: str) -> LabelSpace | None:
    """The label space of a label config; None if it can't be parsed."""
    try:
        return LabelSpace.of(parse_label_config(label_config))
    except LabelConfigError:
        return None


@dataclass(frozen=True)
class FeedbackEvent:
    """One event. Its identity within a project: kind, ids, `updated_us` and `content`.

    Attributes:
        kind: see `EventKind`.
        annotation_id: 0 for the deletion of a task.
        task_id: 0 if the event doesn't name it.
        updated_us: microseconds since 1970, UTC: Label Studio's `updated_at`
            for a statement, the start of the listing for `annotation_missing`
            and `annotation_found`, else 0.
        statement: canonical JSON of the annotation, "" for all other kinds.
        content: sha256 of the statement, "" for all other kinds.
        usable: whether the statement may be trained on.
        task_data: JSON of the task's data, trimmed; None: not known.
        offered: the tags that could be chosen; None: not known.
    """

    kind: EventKind
    annotation_id: int
    task_id: int
    received_at: datetime
    updated_us: int = 0
    statement: str = field(default="", repr=False)
    content: str = ""
    usable: bool = False
    task_data: str | None = field(default=None, repr=False)
    offered: LabelSpace | None = field(default=None, repr=False)


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
    """

    event_id: int
    parsed: ParsedAnnotation
    task_data: Mapping[str, Any] = field(repr=False)
    offered: LabelSpace | None = field(repr=False)
    received_at: datetime


@dataclass(frozen=True)
class AnnotationChanges:
    """Numbers of usable annotations that changed between two moments."""

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
        first_event, last_event: of their events; 0: none.
        hash: sha256 of their ids and contents, whatever the order of events.
    """

    count: int
    first_event: int
    last_event: int
    hash: str


def events_of(request: WebhookRequest, received_at: datetime) -> list[FeedbackEvent]:
    """The events in one webhook call. Never raises: logs what is dropped."""
    entries = request.task_objects if request.action in DELETING_TASKS else request.annotation_objects
    numbers = [number for each in entries if (number := parse_id(each)) is not None]
    if request.action in STATING:
        events = _statements(request, received_at)
    elif request.action in DELETING:
        events = [FeedbackEvent("annotation_deleted", number, 0, received_at) for number in numbers]
    elif request.action in DELETING_TASKS:
        events = [FeedbackEvent("task_deleted", 0, number, received_at) for number in numbers]
    else:
        return []
    if dropped := len(entries) - len(events):
        why = "no id, wrong types, or huge"
        _log.warning("%d of %d entries of an event %s can't be kept: %s", dropped, len(entries), request.action, why)
    return list(dict.fromkeys(events))


def statement_event(
    parsed: ParsedAnnotation, received_at: datetime, *, task_data: object = None, offered: LabelSpace | None = None
) -> FeedbackEvent:
    """The event of one statement; `task_data` as received."""
    statement = parsed.canonical()
    return FeedbackEvent(
        kind="stated",
        annotation_id=parsed.id,
        task_id=parsed.task,
        received_at=received_at,
        updated_us=parsed.updated_us,
        statement=statement,
        content=content_hash(statement),
        usable=parsed.usable,
        task_data=trimmed_task_data(task_data),
        offered=offered,
    )


def current(headers: Iterable[EventHeader]) -> dict[int, EventHeader]:
    """The latest statement of each annotation that exists, by ascending id.

    The latest has the greatest `updated_us`, then the greatest content hash; of
    two equal rows (before and after `/setup`) the first counts. An annotation is
    gone if it or its task was deleted, in any order of events, or if the last
    listing that should have had it lacked it.
    """
    headers = list(headers)
    latest: dict[int, EventHeader] = {}
    for header in headers:
        if header.kind == "stated":
            both = latest.get(header.annotation_id, header), header
            latest[header.annotation_id] = max(both, key=lambda each: (each.updated_us, each.content, -each.event_id))
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


def _statements(request: WebhookRequest, received_at: datetime) -> list[FeedbackEvent]:
    tasks = {parse_id(task): task.get("data") for task in request.task_objects}
    only_task = next(iter(tasks)) if len(tasks) == 1 else None
    config = request.project.label_config if isinstance(request.project, EventProject) else None
    offered = label_space_of(config) if isinstance(config, str) else None
    parsed = [read_annotation(annotation, task=only_task) for annotation in request.annotation_objects]
    return [
        statement_event(each, received_at, task_data=tasks.get(each.task), offered=offered)
        for each in parsed
        if each is not None
    ]


def _contents(annotations: Mapping[int, EventHeader]) -> dict[int, str]:
    """Content hash of each usable annotation."""
    return {number: header.content for number, header in annotations.items() if header.usable}

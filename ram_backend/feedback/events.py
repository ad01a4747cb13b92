"""Ledger events from Label Studio's webhooks and listings: trimmed, each with an identity of its own."""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from typing import Literal

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
"""`stated`: an annotation as it was then. `annotation_deleted`, `task_deleted`: Label Studio's tombstones, final, as no
id is given twice. `annotation_missing`: a complete listing lacked the annotation; a later listing that has it again
revokes that (`annotation_found`)."""

Source = Literal["webhook", "listing"]

STATING = frozenset({"ANNOTATION_CREATED", "ANNOTATION_UPDATED", "ANNOTATIONS_CREATED", "ANNOTATIONS_UPDATED"})
DELETING = frozenset({"ANNOTATION_DELETED", "ANNOTATIONS_DELETED"})
DELETING_TASKS = frozenset({"TASK_DELETED", "TASKS_DELETED"})

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LabelSpace:
    """The fixed choices of a label config at the time of a statement: others were unknown to the annotator, not off.

    Attributes:
        digest: sha256 of `to_json`.
        choices: control name -> paths of its fixed choices. Dynamic choices
            come with each task and are not included.
    """

    digest: str
    choices: dict[str, frozenset[ChoiceId]] = field(repr=False, compare=False)

    @classmethod
    def of(cls, schema: LabelSchema) -> LabelSpace:
        """The label space of a plan."""
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

    def has(self, control: str, choice: ChoiceId) -> bool:
        """Whether a fixed choice could be ticked."""
        return choice in self.choices.get(control, frozenset())


@lru_cache(maxsize=64)
def label_space_of(label_config: str) -> LabelSpace | None:
    """The label space of a label config; None if it can't be parsed. The latest ones are cached."""
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
    source: Source = "webhook"
    task_data: str | None = field(default=None, repr=False)
    offered: LabelSpace | None = field(default=None, repr=False)


def events_of(request: WebhookRequest, received_at: datetime) -> list[FeedbackEvent]:
    """The events in one webhook call; most actions have none. Never raises.

    Entries that can't be recorded (no id, wrong types, huge) are dropped and
    counted in the log.
    """
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
    parsed: ParsedAnnotation,
    received_at: datetime,
    *,
    task_data: object = None,
    offered: LabelSpace | None = None,
    source: Source = "webhook",
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
        source=source,
        task_data=trimmed_task_data(task_data),
        offered=offered,
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

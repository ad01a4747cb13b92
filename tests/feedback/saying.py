"""Annotations and events to test with."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from support.server import choices_config

from ram_backend.feedback.events import CurrentAnnotation, FeedbackEvent, statement_event
from ram_backend.feedback.ledger import Ledger
from ram_backend.feedback.shown import ShownChoice, ShownPrediction
from ram_backend.labelstudio.annotations import ParsedAnnotation, ParsedItem
from ram_backend.projects.keys import ProjectKey

KEY = ProjectKey("http://localhost:8080", 3, 1795452259)
NOBODYS = ProjectKey("", 3, 1795452259)
NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
CONFIG = choices_config("cat", "dog", "tree")


def microseconds(moment: datetime) -> int:
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


def said(number: int, *tags: str, task: int | None = None, at: int = 0, **changes: Any) -> ParsedAnnotation:
    """Annotation `number` of a task of the same number, stated `at` minutes after `NOW`."""
    item = ParsedItem("tags", "image", "choices", tuple((tag,) for tag in tags))
    fields: dict[str, Any] = {
        "completed_by": 1,
        "was_cancelled": False,
        "ground_truth": False,
        "parent_prediction": None,
        "auto_created": False,
        "items": (item,) if tags else (),
        "created_us": microseconds(NOW),
        **changes,
    }
    return ParsedAnnotation(id=number, task=task or number, updated_us=microseconds(NOW + at * MINUTE), **fields)


def event(number: int, *tags: str, received: datetime = NOW, **changes: Any) -> FeedbackEvent:
    parsed = said(number, *tags, **changes)
    return statement_event(parsed, received, task_data={"image": f"/data/{parsed.task}.jpg"})


def deleted(number: int) -> FeedbackEvent:
    return FeedbackEvent("annotation_deleted", number, 0, NOW)


def task_deleted(number: int) -> FeedbackEvent:
    return FeedbackEvent("task_deleted", 0, number, NOW)


def current(parsed: ParsedAnnotation, **changes: Any) -> CurrentAnnotation:
    fields: dict[str, Any] = {
        "event_id": parsed.id,
        "task_data": {"image": f"/data/{parsed.task}.jpg"},
        "offered": None,
        "received_at": NOW,
        **changes,
    }
    return CurrentAnnotation(parsed=parsed, **fields)


def shown(task: int, ticked: Sequence[str] = (), off: Sequence[str] = (), **changes: Any) -> ShownPrediction:
    choices = [ShownChoice("tags", (tag,), 0.9, True) for tag in ticked]
    choices += [ShownChoice("tags", (tag,), 0.2, False) for tag in off]
    fields: dict[str, Any] = {"model_version": "starter-1", "shown_at": NOW - MINUTE, **changes}
    return ShownPrediction(task_id=task, choices=tuple(choices), **fields)


def usable(ledger: Ledger, key: ProjectKey = KEY) -> dict[int, set[str]]:
    """Tags of each annotation that may be learned from."""
    return {
        each.parsed.id: {path[0] for item in each.parsed.items for path in item.values}
        for each in ledger.annotations(key)
        if each.parsed.usable
    }

"""What one annotation states, from the JSON of a webhook or of the API: trimmed to what tags are learned from.

Webhook and API show the same annotation with different trimmings (`completed_by` is a number here and a user there;
results are the same): what is read of both is equal, and so is its canonical JSON.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from ram_backend.labelstudio.plan import LabelPlan, choices_for
from ram_backend.labelstudio.stated_items import ChoiceId, StatedItem, read_items, said_in

MAX_STATEMENT_CHARS = 1_000_000
"""Longest canonical JSON of one statement: all 4,585 tags of the largest vocabulary fit several times."""

MAX_TASK_DATA_CHARS = 100_000
"""Longest JSON of a task's data that is kept; of longer ones the longest values are left out."""

_LARGEST_ID = 2**63 - 1
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True)
class StatedAnnotation:
    """What an annotation says about the tags of a task.

    Attributes:
        id: of the annotation.
        task: number of the task.
        updated_us: when it was last changed, by Label Studio's clock: microseconds since 1970, UTC; 0: not said. It
            orders the statements of an annotation and is not part of what it says (`canonical`).
        created_us: when it was made, likewise.
        completed_by: number of the user; None: not said.
        was_cancelled: the task was skipped, and the items are the model's own: never to be learned from.
        ground_truth: the project's owner vouches for it.
        parent_prediction: number of the prediction that it started from; None: none, or not said.
        unseen: made out of a prediction with nobody looking at it: "create annotations from predictions" leaves
            `lead_time` and `updated_by` null beside a `parent_prediction` (protocol section 7: `ANNOTATIONS_CREATED`;
            `bulk_created` stays false there). Who submits or edits one is named in `updated_by`, so that an edited one
            is not unseen any more.
        items: of what may be tag controls. None at all is a statement, too: no tags.
    """

    id: int
    task: int
    updated_us: int
    created_us: int
    completed_by: int | None
    was_cancelled: bool
    ground_truth: bool
    parent_prediction: int | None
    unseen: bool
    items: tuple[StatedItem, ...]

    @property
    def usable(self) -> bool:
        """Whether it may be learned from."""
        return not self.was_cancelled and not self.unseen

    @property
    def updated_at(self) -> datetime | None:
        """When it was last changed; None: not said."""
        return _EPOCH + self.updated_us * _MICROSECOND if self.updated_us else None

    @property
    def created_at(self) -> datetime | None:
        """When it was made; None: not said."""
        return _EPOCH + self.created_us * _MICROSECOND if self.created_us else None

    def canonical(self) -> str:
        """What it says as canonical JSON: equal statements have equal texts."""
        fields = asdict(self)
        del fields["updated_us"]
        return canonical_json(fields)

    @classmethod
    def from_canonical(cls, text: str, *, updated_us: int) -> StatedAnnotation:
        """The statement that `canonical` wrote."""
        fields = json.loads(text)
        items = tuple(
            StatedItem(
                from_name=item["from_name"],
                to_name=item["to_name"],
                kind=item["kind"],
                values=tuple(tuple(path) for path in item["values"]),
            )
            for item in fields.pop("items")
        )
        return cls(**fields, items=items, updated_us=updated_us)


def read_annotation(annotation: Mapping[str, Any], *, task: int | None = None) -> StatedAnnotation | None:
    """The statement in an annotation as Label Studio writes it; None where nothing can be made of it.

    Fields of wrong types count as missing; without a number of its own and of its task an annotation is nothing, and so
    is one whose canonical JSON is longer than `MAX_STATEMENT_CHARS`. Raises nothing.

    Args:
        annotation: of a webhook or of the API.
        task: number of its task where the annotation doesn't say it.
    """
    number, of_task = number_of(annotation.get("id")), number_of(annotation.get("task")) or task
    result = annotation.get("result")
    if number is None or of_task is None or not isinstance(result, list | None):
        return None
    parent = number_of(annotation.get("parent_prediction"))
    cancelled = annotation.get("was_cancelled") is True
    untouched = annotation.get("lead_time") is None and annotation.get("updated_by") is None
    stated = StatedAnnotation(
        id=number,
        task=of_task,
        updated_us=_microseconds(annotation.get("updated_at")),
        created_us=_microseconds(annotation.get("created_at")),
        completed_by=number_of(annotation.get("completed_by")),
        was_cancelled=cancelled,
        ground_truth=annotation.get("ground_truth") is True,
        parent_prediction=parent,
        unseen=parent is not None and untouched and not cancelled,
        items=read_items(result or ()),
    )
    return stated if len(stated.canonical()) <= MAX_STATEMENT_CHARS else None


def chosen(plan: LabelPlan, stated: StatedAnnotation, task_data: Mapping[str, Any]) -> dict[str, tuple[ChoiceId, ...]]:
    """What is ticked of each tag control of a plan; a control without an item says "none".

    What the plan doesn't know (any more) is left out: a control of another name, a choice that was taken out.

    Args:
        plan: of the project's label config.
        stated: the annotation.
        task_data: where dynamic choices are.

    Returns:
        Control name -> paths of its choices, in the order of the control.
    """
    return ticked(plan, stated.items, task_data)


def ticked(
    plan: LabelPlan, items: tuple[StatedItem, ...], task_data: Mapping[str, Any]
) -> dict[str, tuple[ChoiceId, ...]]:
    """As `chosen`, of the items of any result: a prediction's, too."""
    found: dict[str, tuple[ChoiceId, ...]] = {}
    for control in plan.tag_controls:
        said = said_in(control, items)
        known = said if control.free else [choice.path for choice in choices_for(control, task_data)] if said else []
        found[control.name] = tuple(path for path in known if path in said)
    return found


def number_of(value: object) -> int | None:
    """A number of Label Studio's: a positive integer, also as digits or as `id` of an object; None for all else."""
    if isinstance(value, Mapping):
        value = value.get("id")
    if isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) < 20:
        value = int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 < value <= _LARGEST_ID else None


def canonical_json(value: object) -> str:
    """JSON that is the same for the same value, and that every database keeps: no blanks, keys in order, no NUL."""
    text = json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return text.encode("utf-8", "replace").decode()


def content_of(canonical: str) -> str:
    """sha256 of a statement, in hex."""
    return hashlib.sha256(canonical.encode()).hexdigest()


def trimmed_task_data(data: object, limit: int = MAX_TASK_DATA_CHARS) -> str | None:
    """A task's data as JSON of at most `limit` characters; None where there is none.

    Of longer data the longest values are left out, such as images as data URIs.
    """
    if not isinstance(data, Mapping) or not data:
        return None
    try:
        parts = {str(key): canonical_json(value) for key, value in data.items()}
        text = canonical_json(dict(data))
    except (TypeError, ValueError, RecursionError):
        return None
    if len(text) <= limit:
        return text
    kept: dict[str, Any] = {}
    room = limit - 2
    for key in sorted(parts, key=lambda key: (len(parts[key]), key)):
        room -= len(parts[key]) + len(canonical_json(key)) + 2
        if room < 0:
            break
        kept[key] = data.get(key)
    return canonical_json(kept)


def _microseconds(value: object) -> int:
    """Microseconds since 1970 of an ISO time; 0 where it is none."""
    if not isinstance(value, str):
        return 0
    try:
        moment = datetime.fromisoformat(value.strip())
        return max(0, ((moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - _EPOCH) // _MICROSECOND)
    except (ValueError, OverflowError):
        return 0

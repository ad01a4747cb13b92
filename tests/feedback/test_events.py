"""From webhook calls to events: of each recorded action, and of those that nobody should send."""

import json
import logging
from typing import Any

import pytest
from contract.recorded import NAMES, body
from feedback.saying import CONFIG, NOW

from ram_backend.feedback.events import FeedbackEvent, LabelSpace, events_of, label_space_of
from ram_backend.labelstudio.label_config import parse_label_config
from ram_backend.labelstudio.request_models import WebhookRequest


def events(name: str) -> list[FeedbackEvent]:
    return events_of(WebhookRequest.model_validate(body(f"webhook-{name}")), NOW)


def sent(action: str, **fields: Any) -> list[FeedbackEvent]:
    return events_of(WebhookRequest(action=action, **fields), NOW)


def test_a_statement_and_its_edit() -> None:
    (event,) = events("annotation-created-choices-from-prediction-changed")
    assert (event.kind, event.annotation_id, event.task_id, event.usable) == ("stated", 1, 1, True)
    assert event.task_data == '{"image":"/data/upload/1/98d5a992-img_00.jpg"}'
    assert (event.received_at, len(event.content)) == (NOW, 64)
    assert event.offered is not None
    assert ("dog",) in event.offered.choices["tags"]
    (before,) = events("annotation-created-empty")
    (after,) = events("annotation-updated-empty")
    assert before.annotation_id == after.annotation_id
    assert before.updated_us < after.updated_us


def test_lists_made_of_predictions_are_kept_and_not_used() -> None:
    made = events("annotations-created")
    found = [(event.annotation_id, event.task_id, event.usable) for event in made]
    assert found == [(10, 7, False), (11, 8, False), (12, 9, False)]
    assert all("/data/upload/3/" in (event.task_data or "") for event in made)


def test_deletions() -> None:
    assert [event.annotation_id for event in events("annotations-deleted")] == [3, 4, 5, 10, 6, 7, 8, 9, 11, 12]
    assert {event.kind for event in events("annotations-deleted")} == {"annotation_deleted"}
    (event,) = events("tasks-deleted")
    assert (event.kind, event.annotation_id, event.task_id) == ("task_deleted", 0, 9)


def test_no_event_holds_the_project() -> None:
    names = [name.removeprefix("webhook-") for name in NAMES if name.startswith("webhook-")]
    silent = [name for name in names if not events(name)]
    assert {"project-updated", "start-training", "tasks-created"} <= set(silent)
    for event in (event for name in names for event in events(name)):
        kept = event.statement + (event.task_data or "")
        assert len(kept) < 2000
        assert "label_config" not in kept
        assert "<View" not in kept


def test_what_cannot_be_kept_is_counted_and_the_rest_is_kept(caplog: pytest.LogCaptureFixture) -> None:
    good = {"id": 1, "task": 2, "result": []}
    with caplog.at_level(logging.WARNING):
        kept = sent("ANNOTATIONS_CREATED", annotation=[{"task": 2}, good, {"id": 3, "task": 2, "result": 5}, "x"])
        assert [event.annotation_id for event in kept] == [1]
        assert "2 of 3 entries of an event ANNOTATIONS_CREATED" in caplog.text
        deleted = sent("ANNOTATIONS_DELETED", annotations=[{"id": "x"}, {"id": 5}, {"id": 5}, 6])
        assert [event.annotation_id for event in deleted] == [5]
    assert "1 of 3 entries of an event ANNOTATIONS_DELETED" in caplog.text


def test_an_annotation_that_names_no_task_is_of_the_only_one() -> None:
    (event,) = sent("ANNOTATION_CREATED", annotation={"id": 1, "result": []}, task={"id": 9, "data": {"image": "/a"}})
    assert (event.task_id, event.task_data) == (9, '{"image":"/a"}')
    assert sent("SOMETHING_NEW", annotation={"id": 1, "task": 2, "result": []}, annotations=[{"id": 3}]) == []
    two = [{"id": 8}, {"id": 9}]
    assert sent("ANNOTATIONS_CREATED", annotation=[{"id": 1, "result": []}], task=two) == []


def test_a_label_config_that_cannot_be_read_offers_what_nobody_knows() -> None:
    for config in (None, "", "<View/>", "<View", 7, "no XML"):
        project = {"id": 1, "label_config": config}
        (event,) = sent("ANNOTATION_CREATED", annotation={"id": 1, "task": 2, "result": []}, project=project)
        assert event.offered is None


def test_what_was_offered_is_named_by_all_of_it() -> None:
    one, same = label_space_of(CONFIG), label_space_of(CONFIG.replace("<View>", '<View style="x">'))
    assert one is not None
    assert one == same != label_space_of(CONFIG.replace('"dog"', '"bus"'))
    again = LabelSpace.from_json(one.to_json(), one.digest)
    assert again.choices == one.choices == LabelSpace.of(parse_label_config(CONFIG)).choices
    assert json.loads(one.to_json()) == {"tags": [["cat"], ["dog"], ["tree"]]}

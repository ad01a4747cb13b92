"""Rows of the protocol's tables that are about reading what Label Studio sends."""

from __future__ import annotations

import json

import pytest
from contract.recorded import NAMES, body, wire

from ram_backend.labelstudio.label_config import parse_label_config
from ram_backend.labelstudio.request_models import PredictRequest, SetupRequest, WebhookRequest, read_request
from ram_backend.labelstudio.schema import image_reference
from ram_backend.projects.keys import parse_project

WEBHOOKS = [name for name in NAMES if name.startswith("webhook-")]
PREDICTS = [name for name in NAMES if name.startswith("predict-")]


def event(name: str) -> WebhookRequest:
    return read_request(WebhookRequest, wire(f"webhook-{name}"))


def test_all_recordings_are_here():
    assert len(WEBHOOKS) >= 19
    assert len(PREDICTS) >= 6


@pytest.mark.parametrize(("kind", "params"), [("object", {"a": 1}), ("string", '{"threshold": 0.5}'), ("null", None)])
def test_setup_brings_extra_params_as_object_string_or_null(kind, params):
    setup = read_request(SetupRequest, wire(f"setup-extra-params-{kind}"))
    assert setup.extra_params == params
    assert setup.hostname == "http://label-studio:8080"
    assert setup.access_token == "<legacy token>"
    assert parse_project(setup.project)[1] > 1_795_000_000
    assert [choice.value for choice in parse_label_config(setup.label_config).tag_controls[0].choices][:2] == [
        "cat",
        "dog",
    ]


@pytest.mark.parametrize("name", PREDICTS)
def test_predict_brings_tasks_in_order_with_the_config(name):
    request = read_request(PredictRequest, wire(name))
    assert [task.id for task in request.tasks] == [task["id"] for task in body(name)["tasks"]]
    schema = parse_label_config(request.label_config or "")
    for task in request.tasks:
        reference = image_reference(schema.tag_controls[0], task.data)
        assert reference == task.data["image"]


@pytest.mark.parametrize("name", WEBHOOKS)
def test_each_webhook_is_read_and_names_its_project(name):
    recorded = body(name)
    request = read_request(WebhookRequest, wire(name))
    assert request.action == recorded["action"]
    assert parse_project(request.project_reference)[0] == recorded["project"]["id"]


def test_a_webhook_names_the_project_as_setup_does():
    assert event("annotation-created-choices-textarea-from-prediction").project_reference == "26.1795452906"


def test_a_body_of_4585_tags_is_read_and_its_config_too():
    request = event("annotation-created-taxonomy")
    assert len(json.dumps(body("webhook-annotation-created-taxonomy"), separators=(",", ":"))) > 390_000
    (annotation,) = request.annotation_objects
    assert annotation["result"][0]["type"] == "taxonomy"
    (control,) = parse_label_config(request.project.label_config).tag_controls
    assert len(control.choices) == 4585


def test_the_tag_item_is_found_by_its_control_and_only_its_value_is_human():
    request = event("annotation-created-choices-textarea-from-prediction-changed")
    (annotation,) = request.annotation_objects
    (control,) = parse_label_config(request.project.label_config).tag_controls
    (item,) = [item for item in annotation["result"] if item["from_name"] == control.name]
    assert item["origin"] == "prediction-changed"
    assert item["value"]["choices"]


def test_all_tags_unticked_leaves_no_tag_item_and_is_not_skipped():
    for name in ("annotation-created-empty", "annotation-updated-empty"):
        request = event(name)
        (annotation,) = request.annotation_objects
        (control,) = parse_label_config(request.project.label_config).tag_controls
        assert [item for item in annotation["result"] if item["from_name"] == control.name] == []
        assert annotation["was_cancelled"] is False


@pytest.mark.parametrize("name", ["annotation-created-skipped", "annotation-created-skipped-from-prediction"])
def test_skipped_is_an_annotation_with_a_mark(name):
    request = event(name)
    assert request.action == "ANNOTATION_CREATED"
    assert [annotation["was_cancelled"] for annotation in request.annotation_objects] == [True]


@pytest.mark.parametrize(
    ("name", "annotation", "task"),
    [
        ("annotations-created", {"id", "task", "result", "updated_at"}, {"id", "data"}),
        ("annotations-deleted", {"id"}, None),
        ("tasks-created", None, {"id", "data"}),
        ("tasks-deleted", None, {"id"}),
        ("project-updated", None, None),
        ("start-training", None, None),
    ],
)
def test_what_comes_with_other_events(name, annotation, task):
    """Deleted ones come with their ids alone."""
    request = event(name)
    for found, fields in ((request.annotation_objects, annotation), (request.task_objects, task)):
        assert bool(found) == (fields is not None)
        assert all(set(each) == fields if fields == {"id"} else set(each) > fields for each in found)

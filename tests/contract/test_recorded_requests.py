"""Reading what Label Studio sends: recorded requests, and odd ones."""

import json

import pytest
from contract.recorded import NAMES, body

from ram_backend.errors import InputError
from ram_backend.labelstudio.label_config import parse_label_config
from ram_backend.labelstudio.request_models import PredictRequest, SetupRequest, WebhookRequest, read_request
from ram_backend.projects.keys import parse_project


def test_all_recordings_are_here():
    assert sum(name.startswith("webhook-") for name in NAMES) >= 19
    assert sum(name.startswith("predict-") for name in NAMES) >= 6


@pytest.mark.parametrize(("kind", "params"), [("object", {"a": 1}), ("string", '{"threshold": 0.5}'), ("null", None)])
def test_setup_brings_extra_params_as_object_string_or_null(kind, params):
    setup = read_request(SetupRequest, json.dumps(body(f"setup-extra-params-{kind}")))
    assert setup.extra_params == params
    assert setup.hostname == "http://label-studio:8080"
    assert setup.access_token == "<legacy token>"
    assert parse_project(setup.project)[1] > 1_795_000_000
    choices = parse_label_config(setup.label_config).tag_controls[0].choices
    assert [choice.value for choice in choices[:2]] == ["cat", "dog"]


def test_what_is_left_out_or_odd_is_read_too():
    for field in ("schema", "label_config"):
        setup = read_request(SetupRequest, json.dumps({"project": 3, field: "<View/>"}))
        assert (setup.project, setup.label_config, setup.hostname, setup.extra_params) == ("3", "<View/>", None, None)
    tasks = '[{"data": null}, {"id": "a7", "data": {"image": 3}, "extra": 1}]'
    predict = read_request(PredictRequest, f'{{"tasks": {tasks}, "params": null, "project": null}}')
    assert [(task.id, task.data) for task in predict.tasks] == [(None, {}), ("a7", {"image": 3})]
    assert (predict.project, predict.label_config) == ("", None)
    odd = '{"action": "ANNOTATION_CREATED", "annotation": [{"id": 1}, 5, null], "annotations": "x", "task": 7}'
    webhook = read_request(WebhookRequest, odd)
    assert (webhook.annotation_objects, webhook.task_objects) == ([{"id": 1}], [])


def test_a_webhook_names_the_project_as_setup_does():
    recorded = json.dumps(body("webhook-annotation-created-choices-textarea-from-prediction"))
    assert read_request(WebhookRequest, recorded).project_reference == "26.1795452906"
    for created in ("nonsense", None, 5, ""):
        assert WebhookRequest(action="X", project={"id": 4, "created_at": created}).project_reference == "4.0"


def test_tokens_and_passwords_are_not_shown():
    setup = read_request(SetupRequest, b'{"project": "1.2", "access_token": "s3cret"}')
    predict = read_request(PredictRequest, b'{"tasks": [], "params": {"login": "me", "password": "s3cret"}}')
    assert setup.access_token == "s3cret"
    assert "s3cret" not in repr(setup) + repr(predict)
    with pytest.raises(InputError, match="access_token") as caught:
        read_request(SetupRequest, b'{"project": "1.2", "access_token": ["s3cret"]}')
    assert "s3cret" not in str(caught.value)
    assert caught.value.__cause__ is None

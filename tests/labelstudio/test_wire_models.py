from __future__ import annotations

import json

import pytest

from ram_backend.errors import InputError
from ram_backend.labelstudio.request_models import PredictRequest, SetupRequest, WebhookRequest, read_request


def test_a_minimal_setup():
    body = read_request(SetupRequest, b'{"project": 3}')
    assert (body.project, body.label_config, body.hostname, body.extra_params) == ("3", "", None, None)
    for field in ("schema", "label_config"):
        assert read_request(SetupRequest, json.dumps({"project": "1.2", field: "<View/>"})).label_config == "<View/>"


def test_tokens_and_passwords_are_not_shown():
    setup = read_request(SetupRequest, b'{"project": "1.2", "access_token": "s3cret"}')
    predict = read_request(PredictRequest, b'{"tasks": [], "params": {"login": "me", "password": "s3cret"}}')
    assert setup.access_token == "s3cret"
    assert "s3cret" not in repr(setup) + repr(predict)
    with pytest.raises(InputError) as caught:
        read_request(SetupRequest, b'{"project": "1.2", "access_token": ["s3cret"]}')
    assert "access_token" in str(caught.value)
    assert "s3cret" not in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"null", b'{"tasks": null}', b'{"tasks": [1]}', b'{"project": "1.2"}', b"\xff\xfe"]
)
def test_no_predict_request(body):
    with pytest.raises(InputError):
        read_request(PredictRequest, body)


def test_a_lenient_predict_request():
    tasks = '[{"data": null}, {"id": "a7", "data": {"image": 3}, "extra": 1}]'
    body = read_request(PredictRequest, f'{{"tasks": {tasks}, "params": null, "project": null}}')
    assert [(task.id, task.data) for task in body.tasks] == [(None, {}), ("a7", {"image": 3})]
    assert (body.project, body.label_config) == ("", None)


@pytest.mark.parametrize(
    "text",
    [
        "{}",
        '{"action": null}',
        '{"action": "SOMETHING_NEW", "project": {"id": 3}, "x": 1}',
        '{"action": "A", "project": 3}',
    ],
)
def test_any_webhook_is_read(text):
    body = read_request(WebhookRequest, text)
    assert body.annotation_objects == body.task_objects == []
    assert body.project_reference in ("", "3.0")


def test_oddities_of_a_webhook_are_no_annotations():
    text = '{"action": "ANNOTATION_CREATED", "annotation": [{"id": 1}, 5, null], "annotations": "x", "task": 7}'
    body = read_request(WebhookRequest, text)
    assert body.annotation_objects == [{"id": 1}]
    assert body.task_objects == []


@pytest.mark.parametrize("created", ["nonsense", None, 5, ""])
def test_a_creation_time_that_is_none(created):
    assert WebhookRequest(action="X", project={"id": 4, "created_at": created}).project_reference == "4.0"

"""One project in Label Studio's API: listed without gaps, changed by name, and told apart from what is no API."""

import json

import pytest
from support.http_server import Reply, redirect
from support.label_studio import CREATED, LEGACY, PERSONAL, FakeLabelStudio

from ram_backend.errors import LabelStudioRefused, LabelStudioUnauthorized, LabelStudioUnreachable
from ram_backend.images.fetch import FetchLimits
from ram_backend.labelstudio.api_models import ConnectedBackend
from ram_backend.labelstudio.client import LabelStudio
from ram_backend.labelstudio.project_api import ProjectApi


@pytest.fixture
def plain(studio: FakeLabelStudio) -> FakeLabelStudio:
    studio.file("/api/thing", b'{"a": 1}')
    return studio


@pytest.mark.parametrize("token", [LEGACY, PERSONAL])
def test_json_is_sent_with_the_login(plain: FakeLabelStudio, token: str) -> None:
    client = LabelStudio(plain.url, token)
    assert client.send_json("PATCH", "/api/thing?x=1", {"ü": [1, None]}) == {"a": 1}
    asked = plain.requests[-1]
    assert (asked.method, asked.target) == ("PATCH", "/api/thing?x=1")
    assert json.loads(asked.body) == {"ü": [1, None]}
    assert asked.headers["Content-Type"] == "application/json"
    assert client.send_json("GET", "/api/thing") == {"a": 1}
    assert plain.requests[-1].body == b""
    plain.revoke_access()
    assert client.send_json("POST", "/api/thing", {"a": 2}) == {"a": 1}
    assert json.loads(plain.requests[-1].body) == {"a": 2}, "after a refused token it is sent again"
    plain.file("/api/thing", Reply(204))
    assert client.send_json("DELETE", "/api/thing") is None


@pytest.mark.parametrize(
    ("reply", "error", "said"),
    [
        (Reply(401), LabelStudioUnauthorized, "LABEL_STUDIO_API_KEY"),
        (Reply(403, b'{"detail": "no"}'), LabelStudioUnauthorized, "LABEL_STUDIO_API_KEY"),
        (Reply(404, b'{"detail": "No Project matches\\n it."}'), LabelStudioRefused, "No Project matches it"),
        (Reply(400, b"<html>"), LabelStudioRefused, r"HTTP 400\.$"),
        (Reply(500), LabelStudioUnreachable, "HTTP 500"),
        (Reply(429), LabelStudioUnreachable, "HTTP 429"),
        (redirect("/user/login/"), LabelStudioUnreachable, "HTTP 302"),
        (Reply(200, b"<html>"), LabelStudioUnreachable, "no JSON"),
        (Reply(200, b"[" * 100_000), LabelStudioUnreachable, "no JSON"),
    ],
)
def test_what_is_no_answer(plain: FakeLabelStudio, reply: Reply, error: type[Exception], said: str) -> None:
    plain.file("/api/thing", reply)
    with pytest.raises(error, match=said) as caught:
        LabelStudio(plain.url, LEGACY).send_json("POST", "/api/thing?secret=1", {"secret": 1})
    assert "secret" not in str(caught.value)
    assert LEGACY not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_answer_that_is_too_large(plain: FakeLabelStudio) -> None:
    plain.file("/api/thing", b"1" * 2000)
    with pytest.raises(LabelStudioRefused, match="1,000 bytes"):
        LabelStudio(plain.url, LEGACY, limits=FetchLimits(max_bytes=1000)).send_json("GET", "/api/thing")


def test_the_project(api: ProjectApi, studio: FakeLabelStudio) -> None:
    studio.record["model_version"] = "RAM"
    settings = api.settings()
    assert (settings.created, settings.model_version, settings.label_config) == (CREATED, "RAM", "<View/>")
    studio.record = {"id": 3, "model_version": None, "created_at": "soon"}
    assert (api.settings().created, api.settings().model_version) == (0, "")


def test_annotated_tasks_come_page_by_page(api: ProjectApi, studio: FakeLabelStudio) -> None:
    studio.page = 3
    for number in range(1, 12):
        studio.annotate(number, 2 * number, "cat", was_cancelled=number == 5)
        studio.task(2 * number + 1)
    listed = list(api.annotated_tasks())
    assert [task.id for task in listed] == [2, 4, 6, 8, 12, 14, 16, 18, 20, 22]
    assert listed[0].data == {"image": "/data/2.jpg"}
    assert listed[0].annotations[0]["result"][0]["value"] == {"choices": ["cat"]}
    assert studio.pages == 5


def test_no_task_is_missed_where_others_go_meanwhile(api: ProjectApi, studio: FakeLabelStudio) -> None:
    studio.page = 2
    for number in range(1, 9):
        studio.annotate(number, number, "cat")
    studio.before_page = lambda page: studio.tasks.pop(page - 1, None)
    assert [task.id for task in api.annotated_tasks()] == [1, 2, 3, 4, 5, 6, 7, 8]


def test_tasks_by_number(api: ProjectApi, studio: FakeLabelStudio) -> None:
    for number in range(1, 251):
        studio.task(number)
    wanted = [*range(1, 251, 2), 999]
    assert [task.id for task in api.tasks(wanted)] == list(range(1, 251, 2))
    assert studio.pages == 2
    assert list(api.tasks([])) == []


def test_odd_tasks_are_left_out(api: ProjectApi, studio: FakeLabelStudio) -> None:
    odd = [None, {"id": "x"}, {"id": 5, "data": [], "annotations": [{"id": 2}], "predictions": None}]
    studio.routes["/api/tasks"] = Reply(body=json.dumps({"tasks": odd}).encode())
    (task,) = api.tasks([1])
    assert (task.id, task.data, task.annotations, task.predictions) == (5, {}, [{"id": 2}], [])


@pytest.mark.parametrize("answer", [[], {}, {"tasks": None}, "x", None])
def test_what_is_no_list_of_tasks(api: ProjectApi, studio: FakeLabelStudio, answer: object) -> None:
    studio.routes["/api/tasks"] = Reply(body=json.dumps(answer).encode())
    with pytest.raises(LabelStudioUnreachable, match=r"project 3.*Check that"):
        list(api.annotated_tasks())


@pytest.mark.parametrize("tasks", [b'[{"id": 1}]', b'[{"id": 2}, {"id": 1}]'])
def test_a_list_of_another_order_is_refused(api: ProjectApi, studio: FakeLabelStudio, tasks: bytes) -> None:
    """One that does not go on is asked for for ever; after the largest number of a page tasks are skipped."""
    studio.routes["/api/tasks"] = Reply(body=b'{"tasks": %b}' % tasks)
    for listing in (api.annotated_tasks(), api.failed("v1")):
        with pytest.raises(LabelStudioUnreachable, match="another order"):
            list(listing)


def test_backends(api: ProjectApi, studio: FakeLabelStudio) -> None:
    assert api.backends() == []
    studio.backend(id=7)
    studio.connected += [{"id": None}, {"id": 8, "title": None, "model_version": 5}]
    first, second = api.backends()
    assert first == ConnectedBackend(id=7, url="http://backend:9090", title="RAM", model_version="starter-1")
    assert second == ConnectedBackend(id=8)
    api.change_backend(first, title="starter-2")
    assert studio.changes == [
        ("PATCH", "/api/ml/7", {"project": 3, "url": "http://backend:9090", "title": "starter-2"})
    ]
    assert api.backends()[0].title == "starter-2"

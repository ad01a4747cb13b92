"""Any request to any endpoint: an answer below 500 (503 where something is away), soon, and in bounded memory."""

from __future__ import annotations

import copy
import gc
import json
import logging
import os
import random
import statistics
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from security.hosting import Line, hosting, resident_bytes
from support.label_studio import LEGACY, FakeLabelStudio
from support.server import FakeJobs, choices_config, setup_body
from support.tiny_model import ColourWords, colour_model, picture

from ram_backend.server import model
from ram_backend.server.app import create_app
from ram_backend.settings import load_settings

PATHS = [
    "/",
    "/health",
    "/ready",
    "/setup",
    "/predict",
    "/webhook",
    "/versions",
    "/jobs",
    "/metrics",
    "/docs",
    "/openapi.json",
    "/docs/oauth2-redirect",
    "/nowhere",
]
POSTED = ["/setup", "/predict", "/webhook"]
TIMES = int(os.environ.get("FUZZ_TIMES", "1"))  # make fuzz
METHODS = ["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "PROPFIND"]
CONFIG = choices_config("red", "green", "blue")
CONTROLS = [
    CONFIG,
    choices_config("turquoise", "a\u0000b".replace("\0", "&#1;")),
    choices_config("red", attributes='value="$options"'),
    choices_config("red", kind="Taxonomy", attributes='value="$options"'),
    choices_config("red", attributes=f'model_top_k="{"0" * 5000}5" maxUsages="{"0" * 5000}5"'),
    choices_config("red", attributes='model_score_threshold="1e999"'),
    "<View/>",
    '<!DOCTYPE a [<!ENTITY b "c">]><View>&b;</View>',
]
TEXT = st.text(st.characters(codec=None), max_size=30)
NUMBERS = (
    st.integers()
    | st.floats()
    | st.sampled_from([2**31, 2**53, 2**63 - 1, 2**63, 2**64, 10**30, -(10**30), 10**400, 1e308, -0.0, 5e-324])
)
JSON = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)
PROJECTS = st.sampled_from(
    ["1.1795452148", "1", 1, 2**63 - 1, f"{2**63 - 1}.{2**63 - 1}", "9" * 18, "0", "-1", "", None, 1.5, 10**30]
)
IMAGES = st.sampled_from(
    [
        "/data/upload/1/red.png",
        "/data/local-files/?d=../../etc/passwd",
        "data:image/png;base64,AAAA",
        "data:",
        "data:,",
        "//127.0.0.1/a.png",
        "http://127.0.0.1:1/",
        "http://[::1]:1/",
        "file:///etc/passwd",
        "s3://b/k",
        "",
        " ",
        "\u0000",
        "http://h\r\nX: y/",
        "gopher://x",
        "/data/upload/1/\ud800.png",
        "http://\ud800/",
        "a" * 30_000,
        "/" * 30_000,
    ]
)
TASKS = st.fixed_dictionaries(
    {},
    optional={
        "id": NUMBERS | TEXT | st.none(),
        "data": JSON
        | st.fixed_dictionaries({"image": IMAGES | JSON}, optional={"options": JSON | st.lists(JSON, max_size=5)}),
        "annotations": JSON,
        "predictions": JSON,
    },
)
PARAMS = (
    JSON
    | JSON.map(json.dumps)
    | st.fixed_dictionaries(
        {},
        optional={
            "tags": JSON | st.lists(TEXT, max_size=4),
            "threshold": NUMBERS | TEXT,
            "per_tag": st.dictionaries(TEXT, NUMBERS, max_size=4) | JSON,
            "top_k": NUMBERS,
        },
    )
)
ANNOTATIONS = st.fixed_dictionaries(
    {},
    optional={
        "id": NUMBERS | TEXT,
        "task": NUMBERS | JSON,
        "result": JSON
        | st.lists(
            st.fixed_dictionaries(
                {"from_name": st.just("tags"), "to_name": st.just("image"), "type": st.just("choices") | TEXT},
                optional={"value": JSON | st.fixed_dictionaries({"choices": JSON | st.lists(TEXT, max_size=3)})},
            ),
            max_size=3,
        ),
        "updated_at": TEXT
        | st.sampled_from(["2026-11-23T16:42:28.713546Z", "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"]),
        "created_at": JSON | st.just("9999-12-31T23:59:59-23:59"),
        "completed_by": NUMBERS | JSON,
        "was_cancelled": JSON,
        "ground_truth": JSON,
        "parent_prediction": NUMBERS | JSON,
    },
)
BODIES: dict[str, st.SearchStrategy[Any]] = {
    "/setup": st.fixed_dictionaries(
        {"project": PROJECTS | JSON},
        optional={
            "schema": st.sampled_from(CONTROLS) | TEXT | JSON,
            "hostname": st.sampled_from(
                ["http://127.0.0.1:1", "http://a:b@c", "http://h\r\nx: y", "http://[", "x" * 3000]
            )
            | TEXT
            | JSON,
            "access_token": TEXT | JSON,
            "extra_params": PARAMS,
        },
    ),
    "/predict": st.fixed_dictionaries(
        {"tasks": st.lists(TASKS, max_size=3) | JSON},
        optional={
            "project": PROJECTS | JSON,
            "label_config": st.sampled_from(CONTROLS) | TEXT | JSON,
            "params": JSON,
        },
    ),
    "/webhook": st.fixed_dictionaries(
        {
            "action": st.sampled_from(
                [
                    "ANNOTATION_CREATED",
                    "ANNOTATION_UPDATED",
                    "ANNOTATIONS_CREATED",
                    "ANNOTATIONS_DELETED",
                    "TASKS_DELETED",
                    "PROJECT_DELETED",
                    "START_TRAINING",
                ]
            )
            | JSON
        },
        optional={
            "project": st.fixed_dictionaries(
                {"id": NUMBERS},
                optional={"created_at": TEXT | st.just("0001-01-01T00:00:00+14:00"), "label_config": JSON},
            )
            | JSON,
            "annotation": ANNOTATIONS | st.lists(ANNOTATIONS, max_size=3) | JSON,
            "annotations": st.lists(ANNOTATIONS, max_size=3) | JSON,
            "task": JSON | st.fixed_dictionaries({"id": NUMBERS, "data": JSON}),
            "tasks": st.lists(st.fixed_dictionaries({"id": NUMBERS | JSON}), max_size=3) | JSON,
        },
    ),
}
SETTINGS = {
    "deadline": None,
    "suppress_health_check": [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
}


class House:
    """One server for all examples, whose logged surprises are seen."""

    def __init__(self, client: httpx.Client, studio: FakeLabelStudio) -> None:
        self.client = client
        self.studio = studio


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        words = ColourWords()
        words.go_on.set()
        patch.setattr(model, "open_text_encoder", lambda name, settings: words)
        own = load_settings(
            data_dir=tmp_path_factory.mktemp("fuzz"),
            **{"batch_size": 4, "fetch_threads": 4, "predict_seconds": 20, "fetch_seconds": 2, "max_projects": 300},
        )
        studio = stack.enter_context(FakeLabelStudio())
        studio.upload("red.png", picture((255, 0, 0)))
        app = create_app(own, jobs=FakeJobs(), model=colour_model(own))
        client = stack.enter_context(hosting(app, own))
        assert client.post("/setup", json=setup_body(CONFIG, studio)).status_code == 200
        yield House(client, studio)


def fine(answer: httpx.Response) -> bool:
    """No failure of ours: 503 says that something else is away, in one line."""
    if answer.status_code < 500:
        return True
    return answer.status_code == 503 and answer.request.url.path == "/predict" and "\n" not in answer.json()["error"]


def sent(house: House, path: str, body: bytes, **headers: str) -> httpx.Response:
    answer = house.client.post(path, content=body, headers={"Content-Type": "application/json"} | headers)
    assert fine(answer), (answer.status_code, answer.text, body)
    return answer


@pytest.mark.parametrize("path", POSTED)
@settings(max_examples=150 * TIMES, **SETTINGS)
@given(data=st.data())
def test_bodies_that_are_nearly_right(house: House, path: str, data: st.DataObject) -> None:
    sent(house, path, json.dumps(data.draw(BODIES[path])).encode())


RIGHT: dict[str, Any] = {
    "/setup": {
        "project": "1.1795452148",
        "schema": CONFIG,
        "hostname": "http://127.0.0.1:1",
        "access_token": LEGACY,
        "extra_params": {"threshold": 0.5, "tags": ["red"], "per_tag": {"red": 0.5}, "top_k": 3},
    },
    "/predict": {
        "project": "1.1795452148",
        "label_config": CONFIG,
        "params": {"login": None, "context": {}},
        "tasks": [{"id": 1, "data": {"image": "/data/upload/1/red.png", "options": ["red"]}, "annotations": []}],
    },
    "/webhook": {
        "action": "ANNOTATION_CREATED",
        "project": {"id": 1, "created_at": "2026-11-23T16:42:28.713546Z"},
        "annotation": {
            "id": 5,
            "task": 1,
            "updated_at": "2026-11-23T16:42:28.713546Z",
            "completed_by": 1,
            "created_at": "2026-11-23T16:42:28.713546Z",
            "was_cancelled": False,
            "ground_truth": False,
            "parent_prediction": 1,
            "result": [
                {"from_name": "tags", "to_name": "image", "type": "choices", "id": "a", "value": {"choices": ["red"]}}
            ],
        },
        "annotations": [{"id": 5}],
        "task": {"id": 1, "data": {"image": "a"}},
        "tasks": [{"id": 1}],
    },
}


def places(value: object, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where something stands within a body."""
    if above:
        yield above
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for step, inner in inside:
        yield from places(inner, (*above, step))


@pytest.mark.parametrize("action", ["ANNOTATION_CREATED", "ANNOTATIONS_DELETED", "TASKS_DELETED", "START_TRAINING"])
@pytest.mark.parametrize("number", [2**63, -(2**63) - 1, 10**30, 0, -1])
def test_numbers_that_no_database_keeps(house: House, action: str, number: int) -> None:
    for place in places(RIGHT["/webhook"]):
        if place[-1] in ("id", "task", "completed_by", "parent_prediction"):
            body = copy.deepcopy(RIGHT["/webhook"]) | {"action": action}
            put(body, place, number)
            sent(house, "/webhook", json.dumps(body).encode())


def put(body: Any, place: tuple[Any, ...], value: object) -> None:
    """Puts something else there, where there is still such a place."""
    for step in place[:-1]:
        body = body[step] if isinstance(body, dict | list) and (step in body or isinstance(body, list)) else None
    if isinstance(body, dict) or (isinstance(body, list) and isinstance(place[-1], int) and place[-1] < len(body)):
        body[place[-1]] = value


@pytest.mark.parametrize("path", POSTED)
@settings(max_examples=200 * TIMES, **SETTINGS)
@given(data=st.data())
def test_one_or_two_things_wrong(house: House, path: str, data: st.DataObject) -> None:
    body = copy.deepcopy(RIGHT[path])
    for place in data.draw(st.lists(st.sampled_from(list(places(body))), min_size=1, max_size=2)):
        try:
            put(body, place, data.draw(NUMBERS | IMAGES | JSON))
        except (IndexError, KeyError, TypeError):
            continue  # the first change took the second's place away
    sent(house, path, json.dumps(body).encode())


@pytest.mark.parametrize("path", POSTED)
@settings(max_examples=60 * TIMES, **SETTINGS)
@given(body=st.binary(max_size=200) | JSON.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_are_a_body(house: House, path: str, body: bytes) -> None:
    sent(house, path, body)


@pytest.mark.parametrize("path", POSTED)
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"NaN",
        b'{"project": NaN, "tasks": [{"id": Infinity, "data": {"image": -Infinity}}], "extra_params": NaN}',
        b'{"project": "1.1", "project": "2.2", "tasks": [], "tasks": [{}], "action": "a", "action": "b"}',
        b'{"project": 1e400, "action": "\\ud800", "tasks": [{"data": {"image": "\\ud800"}}]}',
        b'{"project": "1", "extra_params": "\\ud800\\u0000", "action": "\\u0000", "tasks": [{"id": "\\u0000"}]}',
        b'{"project": ' + b"9" * 100_000 + b"}",
        b'{"tasks": [{"id": ' + b"9" * 4000 + b', "data": {"image": "/data/upload/1/red.png"}}], "project": "1"}',
        b'{"action": "ANNOTATION_CREATED", "project": {"id": ' + b"9" * 4000 + b'}, "annotation": {"id": 1}}',
        b"[" * 100_000,
        b'{"project": "1", "tasks": '
        + b"[" * 190
        + b"]" * 190
        + b', "extra_params": '
        + b'{"a":' * 90
        + b"1"
        + b"}" * 90
        + b"}",
        json.dumps({"project": "1", "extra_params": "[" * 100_000, "tasks": []}).encode(),
        json.dumps({"project": "1", "extra_params": '{"top_k": ' + "9" * 10_000 + "}", "tasks": []}).encode(),
        json.dumps({"project": "1", "tasks": []}).encode("utf-16"),
        json.dumps({"project": "1", "tasks": []}).encode("utf-32"),
        b"\xef\xbb\xbf{}",
        b'{"project": "\xff\xfe"}',
        b"\x1f\x8b\x08\x00",
    ],
    ids=str,
)
def test_hostile_json(house: House, path: str, body: bytes) -> None:
    sent(house, path, body)
    sent(house, path, body, **{"Content-Encoding": "gzip", "Content-Type": "application/json; charset=nonsense"})


HEADERS = st.dictionaries(
    st.sampled_from(
        [
            "Host",
            "Accept",
            "Accept-Encoding",
            "Authorization",
            "Content-Type",
            "Content-Encoding",
            "Range",
            "Cookie",
            "X-Forwarded-For",
            "X-Forwarded-Host",
            "Forwarded",
            "X-RAM-Webhook-Secret",
            "X-Request-Id",
            "Origin",
            "If-None-Match",
            "X-HTTP-Method-Override",
        ]
    ),
    st.binary(max_size=40).map(lambda value: value.translate(None, b"\r\n\0"))
    | st.just(b"[")
    | st.just(b"bytes=0-,-1"),
    max_size=5,
)


@settings(max_examples=250 * TIMES, **SETTINGS)
@given(
    method=st.sampled_from(METHODS),
    path=st.sampled_from(PATHS),
    query=st.binary(max_size=30).map(lambda value: value.hex("%"))
    | st.just(b"project=" + b"9" * 5000).map(bytes.decode),
    headers=HEADERS,
    body=st.binary(max_size=30),
)
def test_odd_methods_and_headers(
    house: House, method: str, path: str, query: str, headers: dict[str, bytes], body: bytes
) -> None:
    lines = b"".join(name.encode() + b": " + value + b"\r\n" for name, value in headers.items())
    host = b"" if "Host" in headers else b"Host: localhost\r\n"
    head = f"{method} {path}?project=%{query}&secret=%{query} HTTP/1.1\r\n".encode()
    length = f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode()
    with Line(house.client) as line:
        line.send(head + host + lines + length + body)
        said = line.read()
    assert said.startswith(b"HTTP/1.1 ")
    status = int(said.split(b" ", 2)[1])
    assert status < 500 or (status, path) == (503, "/predict"), said


@settings(max_examples=100 * TIMES, **SETTINGS)
@given(data=st.binary(max_size=300) | st.binary(max_size=100).map(lambda tail: b"GET /\xff%00%ff" + tail + b"\r\n\r\n"))
def test_any_bytes_are_a_request(house: House, data: bytes) -> None:
    with Line(house.client) as line:
        line.send(data)
        line.socket.shutdown(1)
        said = line.read()
    assert not said.startswith(b"HTTP/1.1 5"), said
    assert house.client.get("/health").status_code == 200


def some(kind: str, number: int, random_: random.Random) -> bytes:
    """A request that has never been there before."""
    word = "".join(random_.choices("abcdefgh", k=2000))
    if kind == "/setup":
        return json.dumps(
            {
                "project": f"{number}.{number}",
                "schema": choices_config(word),
                "access_token": word,
                "extra_params": word,
            }
        ).encode()
    if kind == "/predict":
        return json.dumps(
            {
                "tasks": [{"id": number, "data": {"image": f"data:{word}"}}],
                "label_config": choices_config("red", word[:40]),
            }
        ).encode()
    return json.dumps({"action": word, "project": {"id": -number}, "annotation": {"id": word}}).encode()


@contextmanager
def unrecorded() -> Iterator[None]:
    """Without pytest's handlers, which keep every log record of a test, with its arguments and their tracebacks."""
    root = logging.getLogger()
    handlers, root.handlers = root.handlers, [logging.NullHandler()]
    try:
        yield
    finally:
        root.handlers = handlers


def test_memory_stays_bounded(house: House) -> None:
    """Each of these requests has a word of 2,000 letters of its own: none is kept, once there are as many projects as
    there may be.

    What is kept shows in each portion; in a few of them the process's memory grows for reasons of its own.
    """
    random_ = random.Random(0)
    numbers = iter(range(1_000_000))

    def grown(requests: int) -> int:
        before = resident_bytes()
        for number in range(requests):
            path = POSTED[number % 3]
            sent(house, path, some(path, next(numbers), random_))
        gc.collect()
        return resident_bytes() - before

    with unrecorded():
        grown(1000)
        portions = [grown(300) for _ in range(9)]
    assert statistics.median(portions) < 150_000, f"{[round(each / 300) for each in portions]} bytes a request"

"""Any request to any endpoint: an answer below 500 (503 where something is away), soon, and in bounded memory."""

import contextlib
import copy
import functools
import gc
import json
import logging
import operator
import os
import random
import statistics
import tracemalloc
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from contract.recorded import body
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from security.hosting import Line
from support.http_server import ODD_URLS
from support.label_studio import FakeLabelStudio
from support.server import CONFIG, PROJECT, FakeJobs, choices_config, serving, setup_body
from support.tiny_model import ColourWords, colour_model, picture

from ram_backend.server import model
from ram_backend.server.app import create_app
from ram_backend.settings import load_settings

PATHS = [
    "/", "/health", "/ready", "/setup", "/predict", "/webhook", "/versions", "/jobs", "/metrics", "/docs",
    "/openapi.json", "/docs/oauth2-redirect", "/nowhere",
]  # fmt: skip
TIMES = int(os.environ.get("FUZZ_TIMES", "1"))  # make fuzz
POSTED = ["/setup", "/predict", "/webhook"]
METHODS = ["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "PROPFIND"]
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
ACTIONS = ["ANNOTATION_CREATED", "ANNOTATIONS_DELETED", "TASKS_DELETED", "START_TRAINING"]
GONE = object()
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
ODD = [
    *ODD_URLS, *CONTROLS, 10**30, "9" * 18, f"{2**63 - 1}.{2**63 - 1}", "1", "-1", "x" * 3000, "[" * 50, "\0", "\ud800",
    "/data/upload/1/red.png", "/data/local-files/?d=../../etc/passwd", "/data/upload/1/\ud800.png", "data:,", "s3://b/k",
    "data:image/png;base64,AAAA", "http://127.0.0.1:1/", "http://[::1]:1/", "http://\ud800/", "a" * 30_000,
    "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00", *ACTIONS, "TASKS_CREATED", "PROJECT_DELETED",
]  # fmt: skip
VALUES = st.sampled_from(ODD) | NUMBERS | JSON | JSON.map(json.dumps)
SETTINGS = {
    "deadline": None,
    "suppress_health_check": [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
}


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """One server for all examples."""
    with contextlib.ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        words = ColourWords()
        words.go_on.set()
        patch.setattr(model, "open_text_encoder", lambda name, settings: words)
        own = load_settings(
            data_dir=tmp_path_factory.mktemp("fuzz"),
            **{"batch_size": 4, "fetch_threads": 4, "predict_seconds": 20, "fetch_seconds": 2, "max_projects": 100},
        )
        studio = stack.enter_context(FakeLabelStudio())
        studio.upload("red.png", picture((255, 0, 0)))
        app = create_app(own, jobs=FakeJobs(), model=colour_model(own))
        client = stack.enter_context(serving(app))
        assert client.post("/setup", json=setup_body(CONFIG, studio)).status_code == 200
        yield client


def fine(answer: httpx.Response) -> bool:
    """No failure of ours: 503 says that something else is away, in one line."""
    if answer.status_code < 500:
        return True
    return answer.status_code == 503 and answer.request.url.path == "/predict" and "\n" not in answer.json()["error"]


def sent(client: httpx.Client, path: str, body: bytes, **headers: str) -> httpx.Response:
    answer = client.post(path, content=body, headers={"Content-Type": "application/json"} | headers)
    assert fine(answer), (answer.status_code, answer.text, body)
    return answer


RIGHT = {
    "/setup": body("setup-extra-params-object")
    | {"project": PROJECT, "extra_params": {"threshold": 0.5, "tags": ["red"], "per_tag": {"red": 0.5}, "top_k": 3}},
    "/predict": body("predict-one-upload") | {"project": PROJECT, "label_config": CONFIG},
    "/webhook": body("webhook-annotation-created-choices-textarea-from-prediction")
    | {"project": {"id": 1, "created_at": "2026-11-23T16:42:28.7Z"}, "annotations": [{"id": 5}], "tasks": [{"id": 1}]},
}
RIGHT["/predict"]["tasks"][0]["data"] = {"image": "/data/upload/1/red.png", "options": ["red"]}


def places(value: object, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where something stands within a body."""
    if above:
        yield above
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for step, inner in inside:
        yield from places(inner, (*above, step))


def changed(path: str, *changes: tuple[tuple[Any, ...], Any]) -> dict[str, Any]:
    """A right body with other values in some places (where an earlier change left one), or without them: `GONE`."""
    found = copy.deepcopy(RIGHT[path])
    for place, value in changes:
        with contextlib.suppress(LookupError, TypeError):
            inside = functools.reduce(operator.getitem, place[:-1], found)
            inside[place[-1]] = value
            if value is GONE:
                del inside[place[-1]]
    return found


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("number", [2**63, -(2**63) - 1, 10**30, 0, -1])
def test_numbers_that_no_database_keeps(client: httpx.Client, action: str, number: int) -> None:
    for place in places(RIGHT["/webhook"]):
        if place[-1] in ("id", "task", "completed_by", "parent_prediction"):
            sent(client, "/webhook", json.dumps(changed("/webhook", (("action",), action), (place, number))).encode())


@pytest.mark.parametrize("path", POSTED)
@settings(max_examples=350 * TIMES, **SETTINGS)
@given(data=st.data())
def test_a_few_things_wrong(client: httpx.Client, path: str, data: st.DataObject) -> None:
    changes = st.tuples(st.sampled_from(list(places(RIGHT[path]))), VALUES | st.just(GONE))
    sent(client, path, json.dumps(changed(path, *data.draw(st.lists(changes, min_size=1, max_size=4)))).encode())


@pytest.mark.parametrize("path", POSTED)
@settings(max_examples=60 * TIMES, **SETTINGS)
@given(body=st.binary(max_size=200) | JSON.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_are_a_body(client: httpx.Client, path: str, body: bytes) -> None:
    sent(client, path, body)


@pytest.mark.parametrize("path", POSTED)
@pytest.mark.parametrize(
    "body",
    [
        b'{"project": NaN, "tasks": [{"id": Infinity, "data": {"image": -Infinity}}], "extra_params": NaN}',
        b'{"project": "1.1", "project": "2.2", "tasks": [], "tasks": [{}], "action": "a", "action": "b"}',
        b'{"project": 1e400, "action": "\\ud800", "tasks": [{"data": {"image": "\\ud800"}}]}',
        b'{"project": "1", "extra_params": "\\ud800\\u0000", "action": "\\u0000", "tasks": [{"id": "\\u0000"}]}',
        b'{"project": ' + b"9" * 100_000 + b"}",
        b'{"tasks": [{"id": ' + b"9" * 4000 + b', "data": {"image": "/data/upload/1/red.png"}}], "project": "1"}',
        b'{"action": "ANNOTATION_CREATED", "project": {"id": ' + b"9" * 4000 + b'}, "annotation": {"id": 1}}',
        b"[" * 100_000,
        b'{"project": "1", "tasks": %b, "extra_params": %b}'
        % (b"[" * 190 + b"]" * 190, b'{"a":' * 90 + b"1" + b"}" * 90),
        json.dumps({"project": "1", "extra_params": "[" * 100_000, "tasks": []}).encode(),
        json.dumps({"project": "1", "extra_params": '{"top_k": ' + "9" * 10_000 + "}", "tasks": []}).encode(),
        json.dumps({"project": "1", "tasks": []}).encode("utf-16"),
        b"\xef\xbb\xbf{}",
        b"\x1f\x8b\x08\x00",
    ],
    ids=str,
)
def test_hostile_json(client: httpx.Client, path: str, body: bytes) -> None:
    sent(client, path, body)
    sent(client, path, body, **{"Content-Encoding": "gzip", "Content-Type": "application/json; charset=nonsense"})


HEADER_NAMES = [
    "Host", "Accept", "Accept-Encoding", "Authorization", "Content-Type", "Content-Encoding", "Range", "Cookie",
    "X-Forwarded-For", "X-Forwarded-Host", "Forwarded", "X-RAM-Webhook-Secret", "X-Request-Id", "Origin",
    "If-None-Match", "X-HTTP-Method-Override",
]  # fmt: skip
HEADERS = st.dictionaries(
    st.sampled_from(HEADER_NAMES),
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
    client: httpx.Client, method: str, path: str, query: str, headers: dict[str, bytes], body: bytes
) -> None:
    lines = b"".join(name.encode() + b": " + value + b"\r\n" for name, value in headers.items())
    host = b"" if "Host" in headers else b"Host: localhost\r\n"
    head = f"{method} {path}?project=%{query}&secret=%{query} HTTP/1.1\r\n".encode()
    length = f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode()
    with Line(client) as line:
        line.send(head + host + lines + length + body)
        said = line.read()
    assert said.startswith(b"HTTP/1.1 ")
    status = int(said.split(b" ", 2)[1])
    assert status < 500 or (status, path) == (503, "/predict"), said


def some(kind: str, number: int, random_: random.Random) -> bytes:
    """A request that has never been there before."""
    word = "".join(random_.choices("abcdefgh", k=2000))
    bodies: dict[str, Any] = {
        "/setup": {
            "project": f"{number}.{number}",
            "schema": choices_config(word),
            "access_token": word,
            "extra_params": word,
        },
        "/predict": {
            "tasks": [{"id": number, "data": {"image": f"data:{word}"}}],
            "label_config": choices_config("red", word[:40]),
        },
        "/webhook": {"action": word, "project": {"id": -number}, "annotation": {"id": word}},
    }
    return json.dumps(bodies[kind]).encode()


def test_memory_stays_bounded(client: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of these requests has a word of 2,000 letters of its own: none is kept, once there are as many projects as
    there may be.

    Counted is what Python holds: the process's own size rises and falls in steps that no request asked for.
    """
    random_ = random.Random(0)
    numbers = iter(range(1_000_000))

    def grown(requests: int) -> int:
        before = tracemalloc.get_traced_memory()[0]
        for number in range(requests):
            path = POSTED[number % 3]
            sent(client, path, some(path, next(numbers), random_))
        gc.collect()
        return tracemalloc.get_traced_memory()[0] - before

    monkeypatch.setattr(logging.getLogger(), "handlers", [])  # pytest's keep every record of a test
    tracemalloc.start()
    try:
        grown(400)
        portions = [grown(150) for _ in range(5)]
    finally:
        tracemalloc.stop()
    assert statistics.median(portions) < 75_000, f"{[round(each / 150) for each in portions]} bytes a request"

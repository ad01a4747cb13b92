"""Tasks and bodies from somebody who means harm: paths that lead up, and what grows when it is read."""

import httpx
import pytest
from security.hosting import MemoryWatch
from support.label_studio import FakeLabelStudio
from support.server import choices_config, predict_body, setup_body, ticked
from support.tiny_model import RED, picture

CONFIG = choices_config("red", "green")
JSON = {"Content-Type": "application/json"}


@pytest.mark.parametrize(
    "image",
    [
        "/data/local-files/?d=../../etc/passwd", "/data/local-files/?d=a/../../b", "/data/local-files/?d=%2e%2e%2fb",
        "/data/local-files/?d=..%5cb", "/data/local-files/?d=%252e%252e/b", "/data/local-files/?x=1&d=../b",
        "/data/upload/../../api/token", "/data/%2e%2e/logout", "/data/upload/1/..", "/data/..\\b",
        "{studio}/data/../api/current-user/token", "/api/users/1/reset-token", "{studio}/api/projects/1/export",
    ],
)  # fmt: skip
def test_steps_up_and_the_api_are_not_asked(client: httpx.Client, studio: FakeLabelStudio, image: str) -> None:
    """With our token a task could do there what its author may not."""
    client.post("/setup", json=setup_body(CONFIG, studio))
    answer = client.post("/predict", json=predict_body(CONFIG, [image.replace("{studio}", studio.url)]))
    assert answer.json()["results"][0]["result"] == []
    assert studio.requests == []
    assert 'ram_images_total{outcome="ImageRefused"} 1.0' in client.get("/metrics").text


def test_dots_in_names_are_no_steps(client: httpx.Client, studio: FakeLabelStudio) -> None:
    client.post("/setup", json=setup_body(CONFIG, studio))
    for name in ("a..b.png", "...png", "..a.png", "a...png"):
        studio.files[f"/data/upload/1/{name}"] = studio.files[f"x/{name}"] = picture(RED)
        images = [f"/data/upload/1/{name}", f"/data/local-files/?d=x/{name}"]
        assert ticked(client, predict_body(CONFIG, images)) == [["red"], ["red"]], name


@pytest.mark.parametrize(
    "body",
    [
        b'{"project": "1", "tasks": [' + b"[]," * 5_000_000 + b"1]}",
        b'{"project": "1", "tasks": [' + b"1," * 7_000_000 + b"1]}",
        b'{"project": "1", "tasks": [' + b"{}," * 240_000 + b"{}]}",
        b'{"project": ' + b'[{"":1},' * 1 + b'{"":[1]},' * 3_000_000 + b"1]}",
        b'{"action": "a", "extra_params": [' + b"1," * 15_000_000 + b"1]}",
    ],
    ids=["lists", "wrong tasks", "empty tasks", "objects", "numbers"],
)
@pytest.mark.parametrize("path", ["/predict", "/webhook", "/setup"])
def test_bodies_that_grow(client: httpx.Client, path: str, body: bytes) -> None:
    """A body must not take many times its size: the wrong tasks took a minute and 6 GB."""
    with MemoryWatch() as memory:
        answer = client.post(path, content=body, headers=JSON)
    assert answer.status_code == 400 or (path == "/webhook" and answer.status_code < 500)
    assert memory.grown < 700_000_000


@pytest.mark.parametrize(
    "uri",
    ["data:," + "%" * 8_000_000, "data:;base64," + "%" * 8_000_000, "data:;base64," + " " * 8_000_000],
    ids=["percents", "base64 of percents", "base64 of spaces"],  # a process can't begin beside so long a name
)
def test_data_uris_that_grow(client: httpx.Client, uri: str) -> None:
    with MemoryWatch() as memory:
        answer = client.post("/predict", json=predict_body(CONFIG, [uri]))
    assert answer.json()["results"][0]["result"] == []
    assert memory.grown < 300_000_000, "60 times its size where it is undone all at once"


def test_addresses_without_end(client: httpx.Client, studio: FakeLabelStudio) -> None:
    client.post("/setup", json=setup_body(CONFIG, studio))
    stems = ("http://", "http://h/", "/data/upload/", "s3://b/", "http://h/?")
    images = [stem + "a" * 1_000_000 for stem in stems] + ["%" * 1_000_000, "/data/" + "%" * 4_000_000]
    answer = client.post("/predict", json=predict_body(CONFIG, images))
    assert [each["result"] for each in answer.json()["results"]] == [[]] * len(images)
    assert f'outcome="ImageRefused"}} {len(images)}.0' in client.get("/metrics").text
    assert studio.requests == []

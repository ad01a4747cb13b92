"""`/setup` (and the label configs of `/predict`) from somebody who means harm."""

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from security.hosting import Line, MemoryWatch, resident_bytes
from support.http_server import HttpServer, Reply
from support.label_studio import LEGACY, FakeLabelStudio
from support.server import PROJECT, Start, choices_config, predict_body, setup_body, ticked
from support.tiny_model import RED, inline, picture

CONFIG = choices_config("red", "green")
ELSEWHERE = "2.1795452148"


@pytest.fixture
def elsewhere() -> Iterator[HttpServer]:
    """Another server, at an address inside the network."""
    with HttpServer("127.0.0.2") as web:
        web.routes["/data/upload/1/a.png"] = Reply(body=picture(RED))
        yield web


def hostile(studio: FakeLabelStudio, **changes: Any) -> dict[str, Any]:
    return setup_body(CONFIG, studio) | changes


def tagged(client: httpx.Client, image: str, project: str = PROJECT) -> list[Any]:
    """Tags of one image."""
    return ticked(client, predict_body(CONFIG, [image], project))[0]


# The address


def test_an_internal_address_is_not_asked(client: httpx.Client, studio: FakeLabelStudio, elsewhere: HttpServer) -> None:
    """The first host is pinned; another is taken in, and neither asked inside the network nor sent a token."""
    assert client.post("/setup", json=setup_body(CONFIG, studio)).status_code == 200
    changed = hostile(studio, hostname=elsewhere.url, project=ELSEWHERE)
    assert client.post("/setup", json=changed).status_code == 200, "never refused"
    for image in ("/data/upload/1/a.png", f"{elsewhere.url}/data/upload/1/a.png", "s3://bucket/a.png"):
        answer = client.post("/predict", json=predict_body(CONFIG, [image], ELSEWHERE))
        assert answer.status_code == 503 or answer.json()["results"][0]["result"] == []
    assert elsewhere.requests == []


@pytest.mark.parametrize("token", ["settings", "setup"])
def test_another_host_gets_no_token(start: Start, studio: FakeLabelStudio, elsewhere: HttpServer, token: str) -> None:
    """Not even where an admin allowed its address: it gets the token that its own /setup brought, never ours."""
    known = {"label_studio_api_key": LEGACY} if token == "settings" else {}
    client = start(allowed_image_hosts="127.0.0.2", **known)
    client.post("/setup", json=setup_body(CONFIG, studio))
    for number in range(3):
        client.post("/setup", json=hostile(studio, hostname=elsewhere.url, project=ELSEWHERE, access_token="theirs"))
        assert tagged(client, f"/data/upload/1/a.png?{number}", ELSEWHERE) == ["red"]
    assert len(elsewhere.requests) == 3
    assert {each.headers.get("Authorization") for each in elsewhere.requests} == {"Token theirs"}
    assert not any("Cookie" in each.headers for each in elsewhere.requests)


def test_a_changed_token_is_tried_before_it_replaces_the_old_one(start: Start, studio: FakeLabelStudio) -> None:
    client = start()
    client.post("/setup", json=setup_body(CONFIG, studio))
    assert client.post("/setup", json=hostile(studio, access_token="evil")).status_code == 200
    assert tagged(client, studio.upload("a.png", picture(RED))) == ["red"]


@pytest.mark.parametrize(
    "hostname",
    [
        "http://h\r\nSet-Cookie: a=b", "http://h\r\n\r\n<script>", "http://h\nX: y", "http://h\x00", "http://\u2028h",
        "http://h h", "http://h\\@i", "javascript:alert(1)", "file:///etc/passwd", "http://[::1", "http://h:99999",
        "http://" + "a" * 3000, "http://",
    ],
)  # fmt: skip
def test_addresses_that_are_none(client: httpx.Client, studio: FakeLabelStudio, hostname: str) -> None:
    """Refused, with an answer that is one: nothing of the address becomes a header."""
    body = json.dumps(hostile(studio, hostname=hostname)).encode()
    with Line(client) as line:
        line.send(b"POST /setup HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n")
        line.send(b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        head, _, answer = line.read().partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ")
    names = {each.partition(b":")[0].lower() for each in head.split(b"\r\n")[1:]}
    assert names <= {b"date", b"content-length", b"content-type", b"x-reason", b"x-request-id", b"connection"}
    assert json.loads(answer)["type"] == "InputError"


# Bombs


DEEP = '<Choice value="a">' * 20_000 + "</Choice>" * 20_000
ENTITIES = "".join(f'<!ENTITY e{n + 1} "{f"&e{n};" * 10}">' for n in range(9))
BOMBS = {
    "billion laughs": f'<!DOCTYPE v [<!ENTITY e0 "ha">{ENTITIES}]><View><Text name="&e9;"/></View>',
    "many choices": choices_config(*map(str, range(60_000))),
    "ten megabytes": choices_config(*(f"choice {n:09}" for n in range(300_000))),
    "many elements": "<View>" + "<a/>" * 1_000_000 + "</View>",
    "deep": "<View>" * 500_000,
    "deep choices": choices_config("a", kind="Taxonomy").replace('<Choice value="a"/>', DEEP),
    "many texts": choices_config(*(f'{n}" predicted_values="{",".join(map(str, range(900)))}' for n in range(100))),
    "many names": choices_config(more="".join(f'<Choices name="c{n}" toName="image"/>' for n in range(90_000))),
    "not a number": choices_config("a", attributes=f'model_top_k="{"9" * 1_000_000}"'),
}


@pytest.mark.parametrize("path", ["/setup", "/predict"])
@pytest.mark.parametrize("bomb", BOMBS)
def test_label_config_bombs(start: Start, studio: FakeLabelStudio, bomb: str, path: str) -> None:
    client = start(predict_seconds=10)
    body = {**setup_body(BOMBS[bomb], studio), **predict_body(BOMBS[bomb], ["data:,"])}
    with MemoryWatch() as memory:
        answer = client.post(path, json=body)
    assert answer.status_code == 400, answer.text
    assert len(answer.text) < 2000
    assert memory.grown < 250_000_000
    assert client.get("/health").status_code == 200


def test_too_many_elements(client: httpx.Client, studio: FakeLabelStudio) -> None:
    answer = client.post("/setup", json=setup_body(BOMBS["many elements"], studio))
    assert "more than 100,000 elements" in answer.json()["error"]


def test_a_label_config_that_is_odd_and_good(client: httpx.Client, studio: FakeLabelStudio) -> None:
    """It costs what it is long, and no more: the zeros took hours."""
    few, many = "0" * 100_000, "0" * 1_000_000
    config = choices_config(
        "red",
        attributes=f'model_top_k="{few}1" maxUsages="{few}1" model_score_threshold="0.{many}1"',
        more=f'<RectangleLabels name="r" toName="image" opacity="{many}{many}x"/>',
    )
    assert client.post("/setup", json=setup_body(config, studio)).status_code == 200


@pytest.mark.parametrize("status", [200, 400])
def test_label_configs_are_kept_within_bounds(client: httpx.Client, status: int) -> None:
    more = f"<!--{'x' * 4_000_000}-->"
    for number in range(1, 61):
        good = choices_config("red", attributes=f'model_top_k="{number}"', more=more)
        config, project = (good, "1.1") if status == 200 else (f"<View>{number}{more}</View>", f"{number}.{number}")
        assert client.post("/predict", json=predict_body(config, ["data:,"], project)).status_code == status
        if number == 10:
            before = resident_bytes()
    assert resident_bytes() - before < 100_000_000, "50 configs of 4 MB each"


def invented(number: int, **changes: Any) -> dict[str, Any]:
    """A `/setup` of a project on a host of its own."""
    body = {"project": f"{number}.1795452148", "hostname": f"http://a{number}.test", "schema": CONFIG}
    return body | changes


def use(client: httpx.Client, number: int) -> None:
    assert tagged(client, inline(RED), f"{number}.1795452148") == ["red"]


def test_invented_projects_make_room_for_others(start: Start, studio: FakeLabelStudio) -> None:
    client = start(max_projects=8)
    assert client.post("/setup", json=invented(0)).status_code == 200
    use(client, 0)
    for number in range(1, 31):
        assert client.post("/setup", json=invented(number)).status_code == 200
    assert client.post("/setup", json=hostile(studio)).status_code == 200, "a genuine one connects"
    metrics = client.get("/metrics").text
    assert "ram_projects_evicted 24.0" in metrics
    assert "ram_projects 8.0" in metrics
    assert client.post("/setup", json=invented(0, schema=choices_config("red"))).status_code == 200
    assert "ram_projects_evicted 24.0" in client.get("/metrics").text, "one that was used is known yet"


def test_projects_without_end(start: Start) -> None:
    client = start(max_projects=3)
    for number in range(1, 4):
        client.post("/setup", json=invented(number))
        use(client, number)
    refused = client.post("/setup", json=invented(4))
    assert (refused.status_code, "RAM_MAX_PROJECTS" in refused.text) == (400, True)
    assert 'ram_refused_total{what="projects"} 1.0' in client.get("/metrics").text
    assert client.post("/setup", json=invented(2, schema=choices_config("red"))).status_code == 200


def test_a_host_has_a_share_of_the_room(start: Start) -> None:
    client = start(max_projects=8)
    for number in range(1, 4):
        answer = client.post("/setup", json=invented(number, hostname="http://a.test"))
        if number < 3:
            assert answer.status_code == 200
            use(client, number)
    assert (answer.status_code, "http://a.test" in answer.text) == (400, True)
    assert client.post("/setup", json=invented(4)).status_code == 200


def test_large_projects_without_end(start: Start, studio: FakeLabelStudio) -> None:
    client = start(max_projects=50)
    client.post("/setup", json=hostile(studio))  # pins its host

    def ask(number: int, characters: int) -> httpx.Response:
        config = choices_config("red", more=f"<!-- {'x' * characters} -->")
        answer = client.post("/setup", json=hostile(studio, project=f"{number}.1795452148", schema=config))
        if answer.status_code == 200:
            use(client, number)
        return answer

    assert [ask(number, 2_000_000).status_code for number in range(1, 5)] == [200, 200, 400, 400]
    assert ask(1, 3_500_000).status_code == 400
    assert ask(1, 100).status_code == 200
    assert ask(3, 2_000_000).status_code == 200, "there is room again"
    assert client.post("/setup", json=hostile(studio, project="9.9", access_token="t" * 3_000_000)).status_code == 400


def test_dynamic_choices_that_are_deep(client: httpx.Client, studio: FakeLabelStudio) -> None:
    config = choices_config(attributes='value="$options"')
    client.post("/setup", json=setup_body(config, studio))
    body = predict_body(config, [studio.upload("a.png", picture(RED))])
    deep: list[Any] = []
    for _ in range(150):
        deep = [{"value": "a", "children": deep}]
    body["tasks"][0]["data"]["options"] = deep
    assert client.post("/predict", json=body).status_code in (200, 400)
    assert client.get("/health").status_code == 200

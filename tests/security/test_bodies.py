"""Bodies that are slow, endless or large: refused, and the others go on being served."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack

import httpx
import pytest
from security.hosting import Line
from support.label_studio import FakeLabelStudio
from support.server import choices_config, predict_body, setup_body
from support.tiny_model import RED, picture

from ram_backend.server import middleware

Start = Callable[..., httpx.Client]
JSON = {"Content-Type": "application/json"}
POST = b"POST /webhook HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


def health(client: httpx.Client) -> int:
    """Status of /health on a connection of its own."""
    return httpx.get(client.base_url.join("/health"), timeout=20, trust_env=False).status_code


def trickle(line: Line, stop: threading.Event) -> threading.Thread:
    """Sends a byte now and then, until told or until nobody takes it."""

    def work() -> None:
        with contextlib.suppress(OSError):
            while not stop.wait(0.05):
                line.send(b"a")

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


@pytest.mark.parametrize("drips", [True, False])
@pytest.mark.parametrize("framing", [b"Content-Length: 100000\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n186a0\r\n"])
def test_a_body_that_never_ends(start: Start, framing: bytes, drips: bool) -> None:
    client = start(request_seconds=0.4)
    stop = threading.Event()
    with Line(client) as line:
        line.send(POST + framing + b'{"')
        if drips:
            trickle(line, stop)
        status, body = line.answer()
        stop.set()
        assert status == 408
        assert b"RAM_REQUEST_SECONDS" in body
        assert line.is_closed_by_server(within=15)
    assert health(client) == 200


def test_the_time_of_the_body_is_not_that_of_the_work(start: Start, studio: FakeLabelStudio) -> None:
    config = choices_config("red")
    client = start(request_seconds=0.5)
    client.post("/setup", json=setup_body(config, studio))
    studio.delay_s = 1.2
    answer = client.post("/predict", json=predict_body(config, [studio.upload("a.png", picture(RED))]))
    assert answer.status_code == 200, answer.text


def test_half_a_request_and_then_nothing_more(client: httpx.Client) -> None:
    for begun in (b"GET /hea", POST + b"Content-Length: 100\r\n\r\n{"):
        with Line(client) as line:
            line.send(begun)
            line.socket.shutdown(1)
            assert line.is_closed_by_server(within=15)
    assert health(client) == 200


def test_a_few_requests_ahead_are_answered(client: httpx.Client) -> None:
    with Line(client) as line:
        line.send(
            b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n" * 20 + b"GET /health HTTP/1.0\r\nHost: localhost\r\n\r\n"
        )
        assert line.read().count(b"HTTP/1.1 200 OK") == 21


def test_a_body_announced_too_large_is_not_waited_for(start: Start) -> None:
    client = start(request_seconds=60)
    with Line(client) as line:
        line.send(POST + b"Content-Length: 99999999999\r\n\r\n")
        assert line.answer()[0] == 413


def test_a_body_that_goes_on_after_its_refusal(start: Start) -> None:
    """An early answer reaches a client that is still sending."""
    client = start(basic_auth_user="a", basic_auth_pass="b")
    answer = client.post("/predict", content=b"x" * 3_000_000, headers=JSON)
    assert answer.status_code == 401


def test_large_bodies_together(start: Start) -> None:
    limit = 2_000_000
    client = start(max_body_bytes=limit, request_seconds=60)
    part = POST + b"Content-Length: 2000000\r\n\r\n" + b" " * (limit - 100)
    with ExitStack() as stack:
        lines = [stack.enter_context(Line(client)) for _ in range(middleware.BODIES_AT_ONCE + 1)]
        for line in lines:
            line.send(part)
            time.sleep(0.05)
        status, body = lines[-1].answer()
        assert (status, b"BodiesTooMany" in body) == (503, True)
        assert client.post("/webhook", json={"action": "x" * 100_000}).status_code == 200, "small ones are always taken"
        lines[0].send(b" " * 98 + b"{}")
        assert lines[0].answer()[0] == 200
    for _ in range(200):
        if client.post("/webhook", content=b" " * 1_900_000 + b"{}", headers=JSON).status_code == 200:
            break
        time.sleep(0.05)
    else:
        pytest.fail("what the others held is not given back")


def test_others_are_served_meanwhile(start: Start, studio: FakeLabelStudio) -> None:
    config = choices_config("red")
    client = start(request_seconds=60)
    client.post("/setup", json=setup_body(config, studio))
    with ExitStack() as stack:
        for number in range(300):
            line = stack.enter_context(Line(client))
            line.send([b"", b"POST /pre", POST + b"Content-Length: 9000\r\n\r\n{"][number % 3])
        body = predict_body(config, [studio.upload("a.png", picture(RED))])
        assert client.post("/predict", json=body).status_code == 200
        assert client.post("/webhook", json={}).status_code == 200
        assert health(client) == 200

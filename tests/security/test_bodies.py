"""Bodies that are slow, endless or large: refused, and the others go on being served."""

import contextlib
import select
import threading
from contextlib import ExitStack

import httpx
import pytest
from security.hosting import Line
from support.label_studio import FakeLabelStudio
from support.processes import wait_until
from support.server import Start, choices_config, predict_body, setup_body
from support.tiny_model import RED, picture

from ram_backend.server.middleware import BODIES_AT_ONCE

JSON = {"Content-Type": "application/json"}
POST = b"POST /webhook HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


def health(client: httpx.Client) -> int:
    """Status of /health on a connection of its own."""
    return httpx.get(client.base_url.join("/health"), timeout=60, trust_env=False).status_code


def trickle(line: Line, stop: threading.Event) -> None:
    """Sends a byte now and then, until told or until nobody takes it."""
    with contextlib.suppress(OSError):
        while not stop.wait(0.05):
            line.send(b"a")


@pytest.mark.parametrize("drips", [True, False])
@pytest.mark.parametrize("framing", [b"Content-Length: 100000\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n186a0\r\n"])
def test_a_body_that_never_ends(start: Start, framing: bytes, drips: bool) -> None:
    client = start(request_seconds=0.4)
    stop = threading.Event()
    with Line(client) as line:
        line.send(POST + framing + b'{"')
        if drips:
            threading.Thread(target=trickle, args=(line, stop), daemon=True).start()
        status, body = line.answer()
        stop.set()
        assert status == 408
        assert b"RAM_REQUEST_SECONDS" in body
        line.read()
    assert health(client) == 200


def test_the_time_of_the_body_is_not_that_of_the_work(start: Start, studio: FakeLabelStudio) -> None:
    config = choices_config("red")
    client = start(request_seconds=2)
    client.post("/setup", json=setup_body(config, studio))
    studio.delay_s = 2.5
    answer = client.post("/predict", json=predict_body(config, [studio.upload("a.png", picture(RED))]))
    assert answer.status_code == 200, answer.text


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
    """One of five is refused, whichever crosses the limit of them all; what it held is free again."""
    client = start(max_body_bytes=2_000_000, request_seconds=60)
    with ExitStack() as stack:
        lines = {each.socket: each for each in (stack.enter_context(Line(client)) for _ in range(BODIES_AT_ONCE + 1))}
        for line in lines.values():
            with contextlib.suppress(ConnectionError):  # it is refused already
                line.send(POST + b"Content-Length: 2000000\r\n\r\n" + b" " * 1_900_000)
        answering, _, _ = select.select(list(lines), [], [], 60)
        (refused,) = [lines.pop(each) for each in answering]
        status, body = refused.answer()
        assert (status, b"BodiesTooMany" in body) == (503, True)
        assert client.post("/webhook", json={"action": "x" * 100_000}).status_code == 200, "small ones are always taken"
        for line in lines.values():
            line.send(b" " * 99_998 + b"{}")
            assert line.answer()[0] == 200
    wait_until(lambda: client.post("/webhook", content=b" " * 1_900_000 + b"{}", headers=JSON).status_code == 200)

"""The reason phrase carries the message: it is all that Label Studio shows of a refused `/setup`."""

from collections.abc import Iterator

import pytest
import requests
from fastapi import FastAPI
from fastapi.responses import JSONResponse
from hypothesis import given
from hypothesis import strategies as st
from support.server import serving

from ram_backend.server.middleware import LONGEST_REASON, as_reason, problem

BODY = '"\r\nHTTP/1.1 400 x\r\nx-reason: from the body\r\n\r\n"'


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    app = FastAPI()

    @app.get("/refused")
    def refused() -> JSONResponse:
        return problem(400, "Extra params: 'thresold': there is no such key\r\nX-Evil: 1 (grüße)", kind="InputError")

    @app.get("/fine")
    def fine() -> JSONResponse:
        return JSONResponse({"text": BODY})

    with serving(app) as client:
        yield str(client.base_url).rstrip("/")


def test_requests_shows_the_message(address: str) -> None:
    answer = requests.get(f"{address}/refused", timeout=5)
    assert "thresold': there is no such key" in answer.reason
    assert "X-Evil" not in answer.headers
    with pytest.raises(requests.HTTPError, match="400 Client Error: Extra params"):
        answer.raise_for_status()
    assert answer.json()["type"] == "InputError"


def test_answers_that_succeed_are_left_alone(address: str) -> None:
    with requests.Session() as session:  # one connection: what follows on it must be well-formed, too
        for _ in range(2):
            answer = session.get(f"{address}/fine", timeout=5)
            assert (answer.reason, answer.json()["text"]) == ("OK", BODY)
        assert session.get(f"{address}/refused", timeout=5).status_code == 400
        assert session.get(f"{address}/fine", timeout=5).status_code == 200


@given(st.text(max_size=600))
def test_any_message_fits_a_status_line(message: str) -> None:
    reason = as_reason(message)
    assert len(reason) <= LONGEST_REASON
    assert reason.isascii()
    assert not any(letter in reason for letter in "\r\n\0")

"""The reason phrase carries the message: it is all that Label Studio shows of a refused `/setup`."""

import pytest
import requests
from fastapi import FastAPI
from fastapi.responses import JSONResponse
from hypothesis import given
from hypothesis import strategies as st
from support.server import serving

from ram_backend.server.middleware import LONGEST_REASON, as_reason, problem

BODY = '"\r\nHTTP/1.1 400 x\r\nx-reason: from the body\r\n\r\n"'


def test_requests_shows_the_message_and_answers_that_succeed_are_left_alone() -> None:
    app = FastAPI()

    @app.get("/refused")
    def refused() -> JSONResponse:
        return problem(400, "Extra params: 'thresold': there is no such key\r\nX-Evil: 1 (grüße)", kind="InputError")

    @app.get("/fine")
    def fine() -> JSONResponse:
        return JSONResponse({"text": BODY})

    with serving(app) as client, requests.Session() as session:  # one connection: what follows must be well-formed
        for _ in range(2):
            answer = session.get(f"{client.base_url}/fine", timeout=5)
            assert (answer.reason, answer.json()["text"]) == ("OK", BODY)
            answer = session.get(f"{client.base_url}/refused", timeout=5)
            assert "thresold': there is no such key" in answer.reason
            assert "X-Evil" not in answer.headers
            assert answer.json()["type"] == "InputError"
            with pytest.raises(requests.HTTPError, match="400 Client Error: Extra params"):
                answer.raise_for_status()


@given(st.text(max_size=600))
def test_any_message_fits_a_status_line(message: str) -> None:
    reason = as_reason(message)
    assert len(reason) <= LONGEST_REASON
    assert reason.isascii()
    assert not any(letter in reason for letter in "\r\n\0")

"""Log lines: one per event, as text or as JSON, with the request that they belong to."""

import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest

from ram_backend.logs import configure, with_request_id

log = logging.getLogger("ram_backend.test")


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    before = logging.getLogger().handlers[:]
    yield
    logging.getLogger().handlers[:] = before
    logging.getLogger("ram_backend").setLevel(logging.NOTSET)


def said(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


def test_json_is_one_object_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    configure("info", "json")
    with with_request_id("abc"):
        log.info('%s "quoted"', "a\nb\u2028c", extra={"fields": {"route": "/predict", "ms": 1.5, "level": "forged"}})
    log.warning("nobody asked", exc_info=KeyError("gone"))
    log.debug("too quiet")
    logging.getLogger("somebody.else").info("chatter")
    first, second = said(capsys)
    assert (first["message"], first["level"], first["logger"]) == ('a\nb\u2028c "quoted"', "info", "ram_backend.test")
    assert (first["request"], first["route"], first["ms"]) == ("abc", "/predict", 1.5)
    assert first["time"].endswith("+00:00")
    assert (second["message"], "request" in second) == ("nobody asked", False)
    assert "KeyError: 'gone'" in second["error"], "the traceback is a field"


def test_text_stays_one_line_and_names_the_request(capsys: pytest.CaptureFixture[str]) -> None:
    configure("info", "text")
    with with_request_id("abc"):
        log.info("event %s", "a\nINFO forged\x1b[0m\u2028end")
    text = capsys.readouterr().err
    assert len(text.splitlines()) == 1
    assert "abc] ram_backend.test: event a\\nINFO forged\\x1b[0m\\u2028end" in text

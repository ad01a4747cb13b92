"""Snapshots: an LRU cache of futures; new tags of one project are embedded beside, and take nobody's place."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any
from unittest.mock import Mock

import pytest
from support.label_studio import FakeLabelStudio
from support.processes import wait_until
from support.server import Start, choices_config, predict_body, setup_body, tags_of
from support.tiny_model import RED, ColourWords, colour_model, picture

from ram_backend.errors import TextEncoderUnavailable
from ram_backend.server import model, services, snapshots
from ram_backend.server.snapshots import FutureLRU
from ram_backend.settings import Settings

KNOWN, DYNAMIC = choices_config("red", "green"), choices_config("red", attributes='value="$options"')


def new_words(count: int, word: str = "word") -> str:
    return choices_config(*[f"{word} {number}" for number in range(count)])


def test_known_tags_wait_for_nobodys_new_ones(
    start: Start, studio: FakeLabelStudio, words: ColourWords, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(services, "EMBEDDED_AT_ONCE", 1)
    words.go_on.clear()
    client, red = start(), studio.upload("a.png", picture(RED))
    for number in range(2, 7):
        assert client.post("/setup", json=setup_body(new_words(number), studio, f"{number}.1")).status_code == 200
    client.post("/setup", json=setup_body(KNOWN, studio, "1.1"))
    answer = client.post("/predict", json=predict_body(KNOWN, [red], "1.1"))
    words.go_on.set()
    assert tags_of(answer.json()["results"][0]) == ["red"]
    last = client.post("/predict", json=predict_body(new_words(6), [red], "6.1"))
    assert last.status_code == 200, "new ones wait for each other"


def test_new_tags_have_a_limit(start: Start, studio: FakeLabelStudio) -> None:
    client, red = start(max_new_tags=5), studio.upload("a.png", picture(RED))
    assert client.post("/setup", json=setup_body(new_words(5), studio)).status_code == 200
    refused = client.post("/setup", json=setup_body(new_words(6), studio))
    body = predict_body(DYNAMIC, [red])
    body["tasks"][0]["data"]["options"] = [f"option {number}" for number in range(6)]
    for answer in (refused, client.post("/predict", json=body)):
        assert (answer.status_code, "RAM_MAX_NEW_TAGS" in answer.text) == (400, True)
    assert 'ram_refused_total{what="new_tags"} 2.0' in client.get("/metrics").text


def test_setup_says_why_new_tags_are_not_embedded(
    start: Start, studio: FakeLabelStudio, words: ColourWords, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(words, "embed", Mock(side_effect=TextEncoderUnavailable("Its weights are not here.")))
    client, body = start(), setup_body(new_words(3), studio)
    wait_until(lambda: client.post("/setup", json=body).status_code == 503)
    assert client.post("/setup", json=body).json()["error"] == "Its weights are not here."


def test_pieces_are_embedded_in_turn(settings: Settings, words: ColourWords, monkeypatch: pytest.MonkeyPatch) -> None:
    """A project that comes with its next piece waits for those that came before."""
    submitted: list[str] = []

    class Threads(ThreadPoolExecutor):
        def submit(self, work: Callable[..., Any], /, *args: Any, **named: Any) -> Future[Any]:
            future = super().submit(work, *args, **named)
            submitted.extend(*args)
            return future

    monkeypatch.setattr(model, "CHUNK", 1)
    monkeypatch.setattr(model, "ThreadPoolExecutor", Threads)
    words.go_on.clear()
    loaded = colour_model(settings)
    encoder = loaded.text_encoder
    with ThreadPoolExecutor(2) as projects:
        for name in ("many", "few"):
            projects.submit(encoder.embed, [name] * 3)
            wait_until(lambda name=name: name in submitted)
        words.go_on.set()
    assert words.asked[:2] == ["many", "few"]


def test_the_latest_results_stay_and_a_failure_is_tried_again_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    with ThreadPoolExecutor(1) as workers:
        latest: FutureLRU[str, object] = FutureLRU(2, workers)
        first, second = latest.get("a", object), latest.get("b", object)
        assert latest.get("a", object) is first
        latest.get("c", object)
        assert len(latest) == 2
        assert latest.get("a", object) is first
        assert latest.get("b", object) is not second
        latest.drop(lambda key: key == "a")
        assert latest.get("a", object) is not first
        failed = latest.get("d", lambda: 1 / 0)
        assert isinstance(failed.exception(30), ZeroDivisionError)
        assert latest.get("d", object) is failed
        monkeypatch.setattr(snapshots, "RETRY_S", -1.0)
        assert latest.get("d", lambda: 1.0).result(30) == 1.0

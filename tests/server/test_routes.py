"""The rows of the protocol's tables that need HTTP: health, setup, versions, webhook, metrics, docs."""

import threading
from collections import deque
from typing import Any
from unittest.mock import Mock

import httpx
import pytest
from contract.recorded import NAMES
from contract.recorded import body as recorded_body
from support.label_studio import FakeLabelStudio
from support.processes import wait_until
from support.server import CONFIG, House, Start, choices_config, connect, predict_body, results, setup_body, tags_of
from support.tiny_model import BLUE, RED, ColourNetwork, ColourWords, identity, picture

from ram_backend.errors import DatabaseUnavailable
from ram_backend.server import model
from ram_backend.server import prometheus as metrics_module


def test_health(client: httpx.Client) -> None:
    assert client.get("/health").json().items() >= {"status": "UP", "model": "ready"}.items()


@pytest.mark.parametrize("name", ["null", "string"])
def test_recorded_setups(client: httpx.Client, name: str) -> None:
    answer = client.post("/setup", json=recorded_body(f"setup-extra-params-{name}"))
    assert answer.status_code == 200, answer.text
    version = answer.json()["model_version"]
    assert version.startswith("colours-")
    assert client.get("/versions").json() == {"versions": [version]}


def test_changed_options_change_the_version_and_the_tags(client: httpx.Client, studio: FakeLabelStudio) -> None:
    image = studio.upload("a.png", picture(RED))

    def found(extra_params: object) -> tuple[str, list[Any]]:
        version = connect(client, studio, extra_params=extra_params)
        (result,) = results(client, predict_body(CONFIG, [image]))
        assert result["model_version"] == version
        return version, tags_of(result)

    kinds = [None, {"threshold": 0.05}, '{"threshold": 0.95}', {"threshold": 0.05, "top_k": 2}]
    kinds += [{"threshold": 0.05, "tags": ["blue", "red"]}, {"per_tag": {"blue": 0.1}}]
    versions, tags = zip(*[found(each) for each in kinds], strict=True)
    assert len(set(versions)) == len(kinds)
    assert list(tags) == [["red"], ["red", "green", "blue"], [], ["red", "green"], ["red", "blue"], ["red", "blue"]]
    assert found(None) == (versions[0], tags[0])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"extra_params": {"tags": ["rose"]}}, "'rose'"),
        ({"schema": '<View><Text name="t" value="$t"/></View>'}, "Choices"),
        *[({"project": name}, "expected NUMBER.CREATED") for name in ("", "x", "1.2.3")],
    ],
)
def test_refused_setups(client: httpx.Client, studio: FakeLabelStudio, changes: dict[str, Any], said: str) -> None:
    answer = client.post("/setup", json=setup_body(CONFIG, studio) | changes)
    assert (answer.status_code, said in answer.json()["error"]) == (400, True)


@pytest.mark.parametrize(
    "name", ["many-upload-with-annotations", "many-upload-with-predictions", "many-upload", "one-upload", "one-http"]
)
def test_recorded_predicts(client: httpx.Client, studio: FakeLabelStudio, name: str) -> None:
    """One result each; their images are not there, so the results are empty."""
    body = recorded_body(f"predict-{name}")
    for task in body["tasks"]:
        task["data"]["image"] = "data:image/png;base64,AAAA"
    version = connect(client, studio, body["label_config"], project=body["project"])
    assert results(client, body) == [{"model_version": version, "score": 1.0, "result": []}] * len(body["tasks"])


def test_every_recorded_event_is_acknowledged(client: httpx.Client) -> None:
    names = [name for name in NAMES if name.startswith("webhook-")]
    for name in names:
        answer = client.post("/webhook", json=recorded_body(name))
        assert answer.status_code == 200, name
        assert answer.json()["status"] == "ok"
    assert len(names) >= 20


def test_metrics_and_docs(client: httpx.Client) -> None:
    """Values of labels are few, whatever is asked."""
    client.get("/nowhere/else")
    for action in ("ANNOTATION_CREATED", "SOMETHING", "OTHER THING"):
        client.post("/webhook", json={"action": action})
    text = client.get("/metrics").text
    assert 'ram_events_total{action="ANNOTATION_CREATED"} 1.0' in text
    assert 'ram_events_total{action="other"} 2.0' in text
    assert "ram_model_ready 1.0" in text
    assert 'route="other"' in text
    assert client.get("/docs").status_code == 200
    assert "/predict" in client.get("/openapi.json").json()["paths"]


def test_what_there_is_not_is_json_too(client: httpx.Client) -> None:
    for method, path, status in (("GET", "/predict", 405), ("POST", "/train", 404), ("GET", "/x", 404)):
        answer = client.request(method, path, headers={"Content-Type": "application/json"})
        assert answer.status_code == status
        assert answer.json()["request_id"] == answer.headers["x-request-id"]


def test_everything_but_predict_answers_while_the_model_loads(
    start: Start, studio: FakeLabelStudio, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on = threading.Event()

    monkeypatch.setattr(model, "load_network", lambda *_, **__: go_on.wait(30) and ColourNetwork())
    client = start(loaded=False, predict_seconds=0.2)
    assert client.get("/health").json()["model"] == "loading"
    assert client.get("/ready").status_code == 503
    version = connect(client, studio)
    assert client.post("/webhook", json={"action": "PROJECT_UPDATED"}).status_code == 200
    body = predict_body(CONFIG, [studio.upload("a.png", picture(BLUE))])
    early = client.post("/predict", json=body)
    assert (early.status_code, "still being loaded" in early.json()["error"]) == (503, True)
    go_on.set()
    wait_until(lambda: client.get("/ready").status_code == 200)
    (result,) = in_time(client, body)
    assert (result["model_version"], tags_of(result)) == (version, ["blue"])


def in_time(client: httpx.Client, body: dict[str, Any]) -> list[Any]:
    """The results of a request that is repeated until it was done within the short time for one."""
    answers: deque[httpx.Response] = deque(maxlen=1)
    wait_until(lambda: answers.append(client.post("/predict", json=body)) or answers[0].status_code == 200)
    return list(answers[0].json()["results"])


def test_a_model_that_cannot_be_loaded(start: Start, studio: FakeLabelStudio, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model, "load_network", Mock(side_effect=RuntimeError("secret detail")))
    client = start(loaded=False)
    wait_until(lambda: client.get("/ready").json()["status"] == "failed")
    assert client.get("/health").json() | {"model": "failed"} == client.get("/health").json()
    answer = client.post("/predict", json=predict_body(CONFIG, ["data:,x"]))
    assert answer.status_code == 503
    assert "secret" not in answer.text + client.get("/ready").text


def test_a_bundle_that_is_not_there_yet(start: Start, studio: FakeLabelStudio, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model, "LOOK_AGAIN_S", 0.02)
    monkeypatch.setattr(model, "load_network", lambda *args, **options: ColourNetwork())
    client = start(loaded=False, opened=False, bundle="ram-plus")
    wait_until(lambda: client.get("/ready").json()["status"] == "failed")
    ready = client.get("/ready")
    assert ready.status_code == 503
    assert "`ram-backend bundles pull ram-plus`" in ready.json()["error"]
    assert client.get("/health").status_code == 200
    body = predict_body(CONFIG, [studio.upload("a.png", picture(BLUE))])
    for path, asked in (("/predict", body), ("/setup", setup_body(CONFIG, studio))):
        answer = client.post(path, json=asked)
        assert (answer.status_code, answer.json()["error"]) == (503, ready.json()["error"])
    monkeypatch.setattr(model, "identify", lambda settings: identity())
    wait_until(lambda: client.get("/ready").status_code == 200)
    assert client.post("/setup", json=setup_body(CONFIG, studio)).status_code == 200


def test_setup_never_waits_for_new_words(start: Start, studio: FakeLabelStudio, words: ColourWords) -> None:
    words.go_on.clear()
    client = start(predict_seconds=0.3)
    many = choices_config("turquoise", *[f"word {place}" for place in range(200)])
    version = connect(client, studio, many)
    body = predict_body(many, [studio.upload("a.png", picture((0, 255, 255)))])
    answer = client.post("/predict", json=body)
    assert (answer.status_code, "still being embedded" in answer.json()["error"]) == (503, True)
    assert client.get("/health").status_code == 200
    words.go_on.set()
    (result,) = in_time(client, body)
    assert (result["model_version"], tags_of(result)) == (version, ["turquoise"])
    assert len(words.asked) == 201, "each word is embedded once"


def test_jobs_corrections_and_steps_of_predictions_are_counted(there: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics_module, "COUNT_S", 0.0)
    there.jobs.asked.append((there.key, "pressed"))
    there.jobs.corrections = 3
    text = there.client.get("/metrics").text
    assert 'ram_jobs_open{kind="train",state="requested"} 1.0' in text
    assert "ram_corrections_pending 3.0" in text
    there.jobs.asked.clear()
    with monkeypatch.context() as patched:
        patched.setattr(there.jobs, "open_jobs", Mock(side_effect=DatabaseUnavailable("It is away.")))
        assert there.client.get("/metrics").status_code == 200, "a database that is away is no error"
    for _ in range(2):
        there.predict()
    text = there.client.get("/metrics").text
    assert 'ram_jobs_open{kind="train",state="requested"} 0.0' in text
    for stage, count in (("fetch", 2), ("decode", 1), ("encode", 1), ("score", 2)):
        assert f'ram_stage_seconds_count{{stage="{stage}"}} {count}.0' in text, stage
